"""Hosts of a small cluster on this machine: each is a set of namespaces (network, host name, mounts, shared memory), joined
by a bridge, and all of them live in one process namespace, with whose first process everything ends. The machine's own
network is not touched."""
import os
import subprocess
import tempfile

NET = '10.181.43'
SWITCH = 'ip link add name sw0 type bridge && ip link set sw0 up && echo ready && while sleep 1; do :; done'  # a shell, as it reaps orphans
# every name is known everywhere; shared memory and the folder own/ are each host's own, all other files are shared
INIT = '''set -e
mount -t tmpfs tmpfs /dev/shm
mount --bind "$2/hosts" /etc/hosts
mkdir -p "$2/own.$1" "$2/own"
mount --bind "$2/own.$1" "$2/own"
hostname "$1"
# a connection whose peer is gone is given up after 6 or 13 s, not a quarter of an hour: mpirun waits for that
echo "$3" >/proc/sys/net/ipv4/tcp_retries2
ip link set lo up
echo $$
exec sleep infinity'''
AGENT = '''#!/bin/sh
# What mpirun calls in place of ssh: agent [-x ...] HOST COMMAND
while case $1 in -*) true ;; *) false ;; esac; do shift; done
host=$1
shift
exec nsenter -a -t "$(cat "$(dirname "$0")/pid.$host")" sh -c "$*"
'''


class NotAllowed(Exception):
    """Namespaces or virtual links cannot be made here."""


class Hosts:
    """with Hosts(['ash', 'birch']) as hosts: subprocess.run([*hosts.mpirun('-n', '2'), 'hostname'])"""

    def __init__(self, names, retries=5):
        """retries: of TCP; the first comes after 0.2 s, and each waits twice as long as the one before."""
        self.names, self.retries, self.inner, self.running = names, str(retries), {}, []
        self.folder = tempfile.TemporaryDirectory(prefix='llmbatch-hosts-')

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for p in self.running[:1]:
            p.kill()
        for p in self.running:
            p.wait()
            if p.stdout:
                p.stdout.close()
        self.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, text, mode=0o644):
        with open(self.path(name), 'w', encoding='utf-8') as f:
            f.write(text)
        os.chmod(self.path(name), mode)

    def start(self):
        if os.geteuid() != 0:
            raise NotAllowed('namespaces: needs root')
        addresses = [f'{NET}.{i + 1}' for i in range(len(self.names))]
        self.write('hosts', ''.join(f'{a} {n}\n' for a, n in zip(['127.0.0.1', *addresses], ['localhost', *self.names])))
        self.write('agent', AGENT, 0o755)
        self.launch('setpriv', '--pdeathsig', 'KILL', 'unshare', '-mnp', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', SWITCH)
        self.first = children(self.running[0].pid)[0]
        for name, address in zip(self.names, addresses):
            self.inner[name] = self.launch(*self.inside(), 'unshare', '-imnu', 'sh', '-c', INIT, 'sh', name, self.folder.name, self.retries)
            self.write('pid.' + name, self.inner[name])
            run(*self.inside(), *f'ip link add name {name} type veth peer name eth0 netns {self.inner[name]}'.split())
            run(*self.inside(), *f'ip link set {name} master sw0 up'.split())
            run(*self.inside(name), *f'ip addr add {address}/24 dev eth0'.split())
            run(*self.inside(name), *'ip link set eth0 up'.split())

    def launch(self, *command):
        """A process that stays; what it says first."""
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.running.append(p)
        said = p.stdout.readline().strip()
        if not said:
            raise NotAllowed('namespaces: not allowed')
        return said

    def inside(self, name=None):
        """The first words of a command that is to run on a host, or beside all of them."""
        enter = ['nsenter', '-a', '-t', str(self.first)]
        return [*enter, 'nsenter', '-a', '-t', self.inner[name]] if name else enter

    def mpirun(self, *args):
        """mpirun on the first host."""
        # process numbers are small here, and the same in another cluster: each keeps its sessions to itself
        return [*self.inside(self.names[0]), 'mpirun', '--allow-run-as-root', '--oversubscribe', '--bind-to', 'none',
                '--mca', 'orte_tmpdir_base', self.path('own'),
                '--mca', 'plm', 'rsh', '--mca', 'plm_rsh_agent', self.path('agent'), '--mca', 'oob_tcp_if_include', 'eth0',
                '--mca', 'pml', 'ob1', '--mca', 'btl', 'self,vader,tcp', '--mca', 'btl_tcp_if_include', 'eth0', *args]

    def on(self, name, *command):
        run(*self.inside(name), *command, error=AssertionError)

    def cut(self, name):
        """Nothing reaches this host any more, and nobody is told."""
        run(*self.inside(), 'ip', 'link', 'set', name, 'down', error=AssertionError)


def run(*command, error=NotAllowed):
    """What fails while hosts are made is not allowed here; later it is a failure."""
    p = subprocess.run(command, capture_output=True, check=False)
    if p.returncode:
        raise error('namespaces: ' + p.stderr.decode().strip())


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
        return [int(word) for word in f.read().split()]
