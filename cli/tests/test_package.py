"""The Debian package of this build: made by CPack, unpacked, looked into, and its program run."""
import os
import re
import shutil
import subprocess

from run import CLEAN_ENV, PROGRAM, TINY, Skip, case, check, equal, program, read

BUILD = os.path.dirname(PROGRAM)


def do(*args, **more):
    p = subprocess.run(args, capture_output=True, text=True, check=False, timeout=240, **more)
    check(p.returncode == 0, args[0], p.returncode, (p.stdout + p.stderr)[-2000:])
    return p.stdout


def tree(root):
    return sorted(os.path.relpath(os.path.join(d, f), root) for d, _, names in os.walk(root) for f in names)


@case
def debian_package(tmp):
    for tool in ('dpkg-deb', 'dpkg-shlibdeps', 'cpack'):
        if not shutil.which(tool):
            raise Skip(f'no dpkg-deb ({tool})')
    if b'__asan_init' in read(PROGRAM) or b'__tsan_init' in read(PROGRAM):
        raise Skip('no dpkg-deb of builds with sanitizers')
    do('cmake', '--build', BUILD, '--target', 'completions')
    do('cpack', '--config', os.path.join(BUILD, 'CPackConfig.cmake'), '-B', tmp)
    made = [n for n in os.listdir(tmp) if n.endswith('.deb')]
    equal(len(made), 1, made)
    deb, root = os.path.join(tmp, made[0]), os.path.join(tmp, 'root')
    field = {n: do('dpkg-deb', '-f', deb, n).strip() for n in ('Package', 'Version', 'Architecture', 'Depends', 'Maintainer')}
    version = program(['--version']).out.decode().split()[1]
    equal((field['Package'], field['Version']), ('llmbatch', version), 'names')
    equal(field['Architecture'], do('dpkg', '--print-architecture').strip(), 'architecture')
    for library in ('libc6', 'libjansson4', 'libpcre2-8-0', 'libutf8proc', 'libzstd1', 'zlib1g'):
        check(re.search(rf'(^|, ){library}', field['Depends']), f'does not depend on {library}: {field["Depends"]}')
    mpi = 'libmpi.so' in do('ldd', PROGRAM)
    equal('openmpi' in field['Depends'], mpi, 'MPI')
    do('dpkg-deb', '-x', deb, root)
    files = tree(root)
    do('cmake', '--install', BUILD, '--prefix', os.path.join(tmp, 'installed', 'usr'))
    equal(tree(os.path.join(tmp, 'installed')), files, 'cmake --install')
    for name in ('usr/bin/llmbatch', 'usr/share/man/man1/llmbatch.1', 'usr/share/man/man5/llmbatch-jsonl.5',
                 'usr/share/man/man7/llmbatch-mpi.7', 'usr/share/man/man7/llmbatch-cuda.7',
                 'usr/share/doc/llmbatch/copyright', 'usr/share/doc/llmbatch/README.md',
                 'usr/share/bash-completion/completions/llmbatch', 'usr/share/zsh/vendor-completions/_llmbatch',
                 'usr/share/fish/vendor_completions.d/llmbatch.fish'):
        check(name in files, name, files)
        check(read(os.path.join(root, name)), f'{name} is empty')
    check(all(f.startswith('usr/') for f in files) and not [f for f in files if f.endswith(('.a', '.h', '.o'))], files)
    check(b'Apache License' in read(os.path.join(root, 'usr/share/doc/llmbatch/copyright')), 'copyright')
    installed = os.path.join(root, 'usr/bin/llmbatch')
    for args in (['--version'], ['-m', TINY, '-p', 'Once', '--max-tokens', '3', '--progress', 'off', '--log-level', 'error']):
        got = subprocess.run([installed, *args], capture_output=True, check=False, env=CLEAN_ENV, timeout=240)
        want = program(args)
        equal((got.returncode, got.stdout), (0, want.out), args)
    equal(do(installed, '--completions', 'bash').encode(), read(os.path.join(root, 'usr/share/bash-completion/completions/llmbatch')),
          'completions')
    if shutil.which('mandoc'):
        for name in files:
            if '/man/man' in name:
                do('mandoc', '-T', 'lint', '-W', 'error', os.path.join(root, name))
                check('llmbatch' in do('mandoc', '-T', 'utf8', os.path.join(root, name)), name)
