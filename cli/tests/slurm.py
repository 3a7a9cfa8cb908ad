"""A Slurm of its own on the hosts of hosts.py: controller and munge on the first, a node daemon on each."""
import os
import subprocess
import time

import hosts

CONF = '''ClusterName=test
SlurmctldHost={first}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
KillWait=2
InactiveLimit=0
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
'''
WAIT_S = 60


class Slurm(hosts.Hosts):
    """with Slurm(['ash', 'birch']) as s: s.submit(script); s.done(): then s.said(job) is what it printed."""

    def start(self):
        for tool in ('slurmctld', 'slurmd', 'munged', 'srun'):
            if not any(os.access(os.path.join(d, tool), os.X_OK) for d in ('/usr/sbin', '/usr/bin')):
                raise hosts.NotAllowed(f'Slurm: no {tool}')
        super().start()
        os.chmod(self.folder.name, 0o755)
        nodes = '\n'.join(f'NodeName={n} NodeAddr={hosts.NET}.{i + 1} CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 '
                          'ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN' for i, n in enumerate(self.names))
        self.write('slurm.conf', CONF.format(first=self.names[0], address=f'{hosts.NET}.1', folder=self.folder.name, nodes=nodes))
        self.write('mpi.conf', f'PMIxCliTmpDirBase={self.path("own")}\n')
        self.write('cgroup.conf', 'CgroupPlugin=cgroup/v1\n')
        with open(self.path('munge.key'), 'wb') as f:
            f.write(os.urandom(1024))
        os.chmod(self.path('munge.key'), 0o400)
        for name in ('ctld', *('spool.' + n for n in self.names)):
            os.mkdir(self.path(name))
        munge = {what: f'--{what}-file={self.path("munge." + what)}' for what in ('key', 'pid', 'log', 'seed')}
        self.daemon(self.names[0], 'munged', '-F', '-f', '--num-threads=2', *munge.values(), f'--socket={self.path("munge.socket")}')
        self.daemon(self.names[0], 'slurmctld', '-D', '-f', self.path('slurm.conf'))
        for name in self.names:
            self.daemon(name, 'slurmd', '-D', '-f', self.path('slurm.conf'), '-N', name)
        if not self.wait(lambda: self.command('sinfo', '-h', '-N', '-o', '%T', check=False).split() == ['idle'] * len(self.names)):
            raise hosts.NotAllowed('Slurm: the nodes do not come up')

    def daemon(self, name, *command):
        self.running.append(subprocess.Popen([*self.inside(name), 'env', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', *command],
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def command(self, *words, check=True, env=None):
        """Standard output of one of Slurm's commands, on the first host."""
        env = {**(env or {}), 'SLURM_CONF': self.path('slurm.conf')}
        p = subprocess.run([*self.inside(self.names[0]), 'env', *(f'{k}={v}' for k, v in env.items()), *words],
                           capture_output=True, text=True, check=False, timeout=WAIT_S)
        if check and p.returncode:
            raise AssertionError(f'{" ".join(words)}: {p.stderr.strip()}')
        return p.stdout

    def wait(self, condition, seconds=WAIT_S):
        """Whether it came true in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def submit(self, script, *options, args=(), env=None):
        """The number of a batch job."""
        self.write('script', script, 0o755)
        return self.command('sbatch', '--parsable', '--export=ALL', '-D', self.folder.name, '-o', self.path('said.%A.%a'),
                            *options, self.path('script'), *args, env=env).strip()

    def done(self, job):
        if not self.wait(lambda: not self.command('squeue', '-h', '-j', job, check=False).strip(), 2 * WAIT_S):
            raise AssertionError(f'job {job} does not end: {self.said(job)}')

    def said(self, job):
        """What a job or the tasks of an array printed, one after the other."""
        found = sorted(name for name in os.listdir(self.folder.name) if name.startswith(f'said.{job}.'))
        texts = []
        for name in found:
            with open(self.path(name), encoding='utf-8', errors='replace') as f:
                texts.append(f.read())
        return ''.join(texts)
