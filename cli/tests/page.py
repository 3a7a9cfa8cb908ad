"""The page of --report, taken apart: it must be well-formed and stand alone, and its numbers are those of the stats file."""
import html.parser
import json
import re

from run import check, equal

EMPTY = {'meta', 'line', 'rect', 'path', 'br'}
# Numbers of the stats that the page does not show.
NOT_SHOWN = {'model.parameters', 'engine.page_tokens', 'engine.ranks', 'engine.tp', 'engine.dp'}


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.data, self.titles, self.text = [], set(), [], [], ''
        self.feed(text)
        self.close()
        equal(self.open, [], 'tags without an end')

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        names = {k for k, _ in attrs}
        check(not {n for n in names if n.startswith('on')} and not names & {'src', 'href', 'xlink:href'}, tag, attrs)
        attrs = dict(attrs)
        if tag == 'data':
            self.data.append([attrs['data-key'], attrs['value'], ''])
        if tag == 'title':
            self.titles.append('')
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            check(self.open and self.open[-1] == tag, f'</{tag}> ends {self.open[-3:]}')
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == 'data':
            self.data[-1][2] += data
        elif self.open and self.open[-1] == 'title':
            self.titles[-1] += data
        elif 'style' not in self.open:
            self.text += data + '\n'


def at(stats, key):
    for part in key.split('.'):
        stats = stats[int(part)] if isinstance(stats, list) else stats[part]
    return stats


def leaves(value, key=''):
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, f'{key}.{k}')]
    if isinstance(value, list):
        return [leaf for k, v in enumerate(value) for leaf in leaves(v, f'{key}.{k}')]
    return [key[1:]] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def check_numbers(page, stats):
    for key, value, text in page.data:
        want = at(stats, key)
        if isinstance(want, bool):
            equal((value, text), (json.dumps(want),) * 2, key)
            continue
        equal(float(value), float(want), key)
        shown = re.match(r'(-?[\d,]+(?:\.\d+)?(?:e-?\d+)?)( %| MiB| ms| GFLOP/s)?', text)
        check(shown, key, text)
        number = float(shown[1].replace(',', '')) * {' %': 0.01, ' ms': 0.001, ' GFLOP/s': 0.001, ' MiB': 2 ** 20}.get(shown[2], 1)
        check(abs(number - want) <= 5e-3 * abs(want) + {' %': 5e-4, ' MiB': 2 ** 19}.get(shown[2], 0), key, text, want)
    missing = set(leaves(stats)) - {key for key, _, _ in page.data} - NOT_SHOWN
    equal(sorted(k for k in missing if not k.startswith('fingerprint')), [], 'numbers that the page lacks')
