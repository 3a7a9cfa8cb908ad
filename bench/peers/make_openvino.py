"""Converts PEERS/models/*/hf for OpenVINO. python make_openvino.py --peers PEERS

Weights stay bf16; what they are computed in is the pipeline's precision hint. Results made before are kept."""

import argparse
import shutil
from pathlib import Path

import openvino
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--peers", type=Path, required=True)
    a = p.parse_args()
    for hf in sorted((a.peers / "models").glob("*/hf")):
        out, tmp = hf.parent / "openvino", hf.parent / "openvino.partial"
        if not out.exists():
            shutil.rmtree(tmp, ignore_errors=True)
            OVModelForCausalLM.from_pretrained(hf, export=True, compile=False, load_in_8bit=False).save_pretrained(tmp)
            tokenizer, detokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(hf), with_detokenizer=True)
            openvino.save_model(tokenizer, tmp / "openvino_tokenizer.xml")
            openvino.save_model(detokenizer, tmp / "openvino_detokenizer.xml")
            tmp.rename(out)
        print(f"{hf.parent.name}: {out}")


if __name__ == "__main__":
    main()
