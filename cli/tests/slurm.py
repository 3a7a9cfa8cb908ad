"""A Slurm of its own on the hosts of hosts.py: controller and munge on the first, a node daemon on each."""
import glob
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
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
KillWait=2
InactiveLimit=0
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
'''
WAIT_S = 60
ENDED = ('BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED', 'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED', 'TIMEOUT')


class Slurm(hosts.Hosts):
    """with Slurm(['ash', 'birch']) as s: job = s.submit(script); s.done(job): then s.said(job) is what it printed."""

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
            raise hosts.NotAllowed(f'Slurm: the nodes do not come up: {self.log(1)}')

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

    def look(self, job):
        """What the controller knows of a job, a dictionary for each task of an array; nothing while it does not answer."""
        shown = self.command('scontrol', '-o', 'show', 'job', job, check=False)
        return [dict(word.partition('=')[::2] for word in line.split()) for line in shown.splitlines()]

    def comes_to(self, job, condition, seconds=WAIT_S):
        """Whether all tasks of a job, as the controller shows them, meet it in time."""
        def met():
            found = self.look(job)
            return bool(found) and all(map(condition, found))
        return self.wait(met, seconds)

    def done(self, job):
        if not self.comes_to(job, lambda task: task.get('JobState') in ENDED, 2 * WAIT_S):
            raise AssertionError(f'job {job} does not end: {self.report(job)}')

    def start_again(self, job):
        """What is in the queue once more starts now; Slurm itself waits two minutes, in which the first start's remains go."""
        def left():
            return [p for name in self.names for what in ('stepd.*', f'pmix.{job}.*', f'{name}_{job}.*') for p in glob.glob(self.path(f'spool.{name}/{what}'))]
        if not self.comes_to(job, lambda task: task.get('JobState') == 'PENDING'):  # no node is ending it any more
            raise AssertionError(f'job {job} is not in the queue: {self.report(job)}')
        if not self.wait(lambda: not left()):
            raise AssertionError(f'sockets of job {job} stay: {left()}')
        # a node refuses what was granted in the second in which it ended the first start, or before ("credential revoked")
        self.command('scontrol', 'update', 'JobId=' + job, 'StartTime=now+1')

    def report(self, job):
        """For the message of a test: the job's state, what it printed and what the controller noted last."""
        keys = ('JobState', 'Reason', 'Restarts', 'ExitCode')
        return f'{[{k: task.get(k) for k in keys} for task in self.look(job)]}\n{self.said(job)}\nslurmctld.log: {self.log()}'

    def log(self, n=15):
        """The controller's last lines."""
        try:
            with open(self.path('slurmctld.log'), encoding='utf-8', errors='replace') as f:
                return ''.join(f.readlines()[-n:]).strip()
        except FileNotFoundError:
            return ''

    def said(self, job):
        """What a job or the tasks of an array printed, one after the other."""
        found = sorted(name for name in os.listdir(self.folder.name) if name.startswith(f'said.{job}.'))
        texts = []
        for name in found:
            with open(self.path(name), encoding='utf-8', errors='replace') as f:
                texts.append(f.read())
        return ''.join(texts)
