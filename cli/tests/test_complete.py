"""--completions: the scripts are ones that the shells take, and what bash is offered is what the options are."""
import os
import re
import shutil
import subprocess

from run import PROGRAM, Skip, case, check, equal, program, write


def script(shell):
    r = program(['--completions', shell])
    equal((r.code, r.err), (0, ''), shell)
    return r.out


def options():
    """Name to (letter, metavar), from --help."""
    text = program(['--help']).out.decode()
    return {m[2]: (m[1], m[3] or '') for m in re.finditer(r'^  (?:-(.), |    )--([a-z-]+)(?: (\S+))?(?=  |$)(?! for)', text, re.M)}


def offered(tmp, *words):
    """What bash offers for the last word."""
    path = write(os.path.join(tmp, 'complete'), script('bash'))
    line = ' '.join(["'" + w.replace("'", "'\\''") + "'" for w in ('llmbatch', *words)])
    ask = f'compopt() {{ :; }}; . {path}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _llmbatch; printf "%s\\n" "${{COMPREPLY[@]}}"'
    p = subprocess.run(['bash', '-c', ask], capture_output=True, text=True, cwd=tmp, check=False)
    equal((p.returncode, p.stderr), (0, ''), words)
    return sorted(p.stdout.split('\n')[:-1] if p.stdout != '\n' else [])


@case
def completions_of_bash(tmp):
    known = options()
    equal(offered(tmp, '--'), sorted('--' + name for name in known), 'all options')
    equal(offered(tmp, '--max-s'), ['--max-seqs'], 'one')
    for name, (_, metavar) in known.items():
        words = [w for w in metavar.split('|')] if '|' in metavar and metavar == metavar.lower() else []
        if words:
            equal(offered(tmp, '--' + name, ''), sorted(words), name)
            equal(offered(tmp, '--' + name, '='), sorted(words), name + '=')
            equal(offered(tmp, '--' + name, '=', words[0][:1]), sorted(w for w in words if w[0] == words[0][0]), name)
    for name in ('a file', 'in.jsonl', 'it\'s'):
        write(os.path.join(tmp, name), b'')
    for words in (['-i', ''], ['--chat-template', ''], ['']):
        equal(offered(tmp, *words), ['a file', 'complete', 'in.jsonl', 'it\'s'], words)
    equal(offered(tmp, '--max-tokens', ''), [], 'a number')


@case
def completions_that_shells_take(tmp):
    names = [f'--{name}' for name in options()]
    for shell in ('bash', 'zsh', 'fish'):
        text = script(shell)
        forms = names if shell != 'fish' else ['-l ' + n[2:] for n in names]
        for name in forms:
            check(re.search(re.escape(name.encode()) + rb'[^a-z-]', text), f'{shell} lacks {name}')
    equal(program(['--completions', 'tcsh']).code, 2, 'another shell')
    lacking = []
    for shell in ('bash', 'zsh', 'fish'):
        path = write(os.path.join(tmp, shell), script(shell))
        if not shutil.which(shell):
            lacking.append(shell)
            continue
        p = subprocess.run([shell, '-n', path], capture_output=True, text=True, check=False)
        equal((p.returncode, p.stdout + p.stderr), (0, ''), shell)
    if shutil.which('zsh'):
        ask = f'autoload -Uz compinit; compinit -u -d {tmp}/dump; fpath=({tmp} $fpath); _arguments() {{ print -r -- $#; }}; . {tmp}/zsh'
        p = subprocess.run(['zsh', '-fc', ask], capture_output=True, text=True, check=False)
        check(p.returncode == 0 and int(p.stdout) > len(names), p.stdout, p.stderr)
    if shutil.which('fish'):
        ask = f'source {tmp}/fish; complete -C "llmbatch --"'
        p = subprocess.run(['fish', '--no-config', '-c', ask], capture_output=True, text=True, check=False)
        found = {line.split('\t')[0] for line in p.stdout.split('\n') if line}
        equal((p.returncode, sorted(found & set(names))), (0, sorted(names)), p.stderr)
    check(os.access(PROGRAM, os.X_OK), PROGRAM)
    if lacking:
        raise Skip(f'no shell: {" ".join(lacking)}')
