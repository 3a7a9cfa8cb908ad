"""--report: one page that stands alone, whose numbers are those of the stats file, and which nothing in a row or a path
can break."""
import json
import os
import re
import shutil

from page import Page, check_numbers
from run import SMALL, case, check, equal, program, read

HOSTILE = '</td></table><script>alert(1)</script><img src=x onerror=alert(2)>&quot;\'"'


def number(text):
    return float(text.replace(',', ''))


def check_charts(page, stats, n_length):
    """What the charts say when they are pointed at adds up to what the stats say."""
    prompt = made = longest = 0
    for title in page.titles:
        m = re.match(r'([\d.e+-]+) to ([\d.e+-]+) s\nof prompts: (\S+) tok/s\nnew: (\S+) tok/s$', title)
        if m:
            length = float(m[2]) - float(m[1])
            prompt += length * number(m[3])
            made += length * number(m[4])
            longest = max(longest, float(m[2]))
    for got, want in ((prompt, stats['tokens']['prompt_computed']), (made, stats['tokens']['completion'])):
        check(abs(got - want) <= 0.02 * want, 'tokens over time', got, want)
    check(longest <= stats['time_s']['total'] * 1.001, longest, stats['time_s'])
    bars = [re.match(r'([\d,]+)(?: to ([\d,]+)| or more)? tokens: ([\d,]+)$', t) for t in page.titles]
    equal(sum(number(m[3]) for m in bars if m), n_length, 'lengths')


def run(tmp, rows, *args, model=SMALL):
    out, path = os.path.join(tmp, 'out.jsonl'), os.path.join(tmp, 'page.html')
    r = program(['-m', model, '-o', out, '--overwrite', '--report', path, *args], rows)
    text = read(path).decode()
    check(not re.search(r'(?i)https?:|url\(|@import|<script|javascript:', text), 'the page refers to something outside it')
    return r, Page(text), json.loads(read(out + '.stats.json')), [json.loads(line) for line in read(out).splitlines()]


@case
def report_of_a_run(tmp):
    rows = [{'prompt': 'Once upon a time ' * (i % 6 + 1), 'max_tokens': 2 + i % 30, 'ignore_eos': True} for i in range(60)]
    rows += [b'{bad', {'prompt': ''}, {'prompt': 'a', 'top_p': 7}, {'prompt': 'a', 'top_p': 7}]
    rows += [{'prompt': 'Samples of', 'n': 3, 'max_tokens': 9}, {'prompt': 'It is scored', 'max_tokens': 4, 'prompt_logprobs': 0}]
    r, page, stats, out = run(tmp, rows, '--batch-tokens', '64', '--temperature', '0.8')
    equal((r.code, sorted(os.listdir(tmp))), (1, ['out.jsonl', 'out.jsonl.stats.json', 'page.html']), r.err)
    check_numbers(page, stats)
    check_charts(page, stats, 62 + 64)
    check(not page.tags & {'script', 'img', 'iframe', 'object', 'link'}, page.tags)
    for text in ('tiny-llama', 'some rows failed', 'bad_json', 'bad_param', 'raw_prompt', '--temperature 0.8', 'command line'):
        check(text in page.text, f'{text!r} is not said')
    part = page.text.split('Slowest rows')[1].split('Numbers')[0]
    slow = re.findall(r'\n(\d+)\n"?(\d+)"?\n([\d,]+)\n([\d,]+)\n', part)
    equal(len(slow), 10, 'slow rows')
    for index, _, n_prompt, n_new in slow:
        row = out[int(index)]
        new = sum(c['completion_tokens'] for c in row.get('choices', [row]))
        equal((int(n_prompt), int(n_new)), (row['prompt_tokens'], new), f'row {index}')


@case
def report_of_hostile_names(tmp):
    model = os.path.join(tmp, '<b onclick=x>&amp;model')
    shutil.copytree(SMALL, model)
    rows = [{'id': HOSTILE, 'prompt': 'Hello', 'max_tokens': 3}, {'id': '\u202e' + 'é' * 100, 'prompt': 'a', 'max_tokens': 2}]
    r, page, stats, _ = run(tmp, rows, '--stop', HOSTILE, model=model)
    equal(r.code, 0, r.err)
    check_numbers(page, stats)
    check('<b onclick=x>&amp;model' in page.text and HOSTILE.replace('"', '\\"') [:30] in page.text, page.text[:400])
    check(not page.tags & {'script', 'img', 'b onclick'} and 'bdi' in page.tags, page.tags)
    check('é...' in page.text, 'a long id is cut at a whole character')


@case
def report_of_nothing(tmp):
    """No row, and no row that is ok: pages without charts."""
    for rows, code in (([], 0), ([b'{bad'], 1)):
        r, page, stats, _ = run(tmp, rows)
        equal(r.code, code, r.err)
        check_numbers(page, stats)
        check('svg' not in page.tags, 'a chart of nothing')


@case
def report_of_what_was_asked_for(tmp):
    rows = [{'prompt': 'Once upon a time', 'max_tokens': 5, 'prompt_logprobs': 1}, {'prompt': 'a b', 'max_tokens': 2}] * 3
    r, page, stats, _ = run(tmp, rows, '--verify', '2')
    equal((r.code, stats['rows']['folded']), (0, 4), r.err)
    check_numbers(page, stats)


@case
def report_without_weights(tmp):
    r, page, stats, _ = run(tmp, [{'prompt': 'Once upon a time', 'max_tokens': 5}] * 3, '--device', 'null')
    equal((r.code, stats['engine']['device']), (0, 'null'), r.err)
    check_numbers(page, stats)
    check('null' in page.text and '(null)' not in page.text, page.text[:300])
