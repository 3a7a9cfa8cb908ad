"""A trace file, read by the rules of the trace event format."""
import collections
import json

from run import check, equal, read


def load(path):
    """The events, each checked by the format's rules."""
    data = json.loads(read(path))
    check(set(data) <= {'traceEvents', 'displayTimeUnit'} and data['displayTimeUnit'] in ('ms', 'ns'), list(data))
    named, opened = set(), collections.Counter()
    for e in data['traceEvents']:
        check(isinstance(e['pid'], int) and isinstance(e['tid'], int) and isinstance(e['name'], str), e)
        check(isinstance(e.get('args', {}), dict) and e['ph'] in 'XMCbe', e)
        if e['ph'] == 'M':
            check(e['name'] in ('process_name', 'thread_name', 'process_sort_index', 'thread_sort_index'), e)
            named.add((e['name'].split('_')[0], e['pid'], e['tid']))
            continue
        check(isinstance(e['ts'], (int, float)) and e['ts'] >= 0, e)
        if e['ph'] == 'X':
            check(e['dur'] >= 0 and ('thread', e['pid'], e['tid']) in named and ('process', e['pid'], 0) in named, e)
        if e['ph'] == 'C':
            check(all(isinstance(v, (int, float)) for v in e['args'].values()), e)
        if e['ph'] in 'be':
            key = (e['cat'], e['id'], e['name'])
            opened[key] += 1 if e['ph'] == 'b' else -1
            check(opened[key] in (0, 1), 'a part of a life ends before it begins', e)
    equal([k for k, n in opened.items() if n], [], 'parts of lives without an end')
    return data['traceEvents']


def spans(events, pid, tid):
    """Of a thread, in order of time; each lies inside another one or beside it."""
    found = sorted((e for e in events if e['ph'] == 'X' and (e['pid'], e['tid']) == (pid, tid)),
                   key=lambda e: (e['ts'], -e['dur']))
    ends = []
    for e in found:
        end = e['ts'] + e['dur']
        while ends and ends[-1] <= e['ts'] + 5e-4:
            ends.pop()
        check(not ends or end <= ends[-1] + 5e-4, 'spans cross', e)
        ends.append(end)
    return found
