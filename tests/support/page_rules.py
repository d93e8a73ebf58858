"""Rules that a page keeps at any width, as expressions for a browser: each gives what breaks it."""

from __future__ import annotations

WIDER = """(() => {
    const out = [], room = innerWidth;
    if (document.scrollingElement.scrollWidth > room)
        out.push('page ' + document.scrollingElement.scrollWidth);
    for (const e of document.querySelectorAll('body *')) {
        const b = e.getBoundingClientRect();
        if (b.width && (b.right > room + 1 || b.left < -1) && !e.closest('svg'))
            out.push(e.tagName + '.' + e.className + ' ' + b.left + ' to ' + b.right + ' '
                + e.textContent.trim().slice(0, 40));
    }
    return out.slice(0, 9);
})()"""
"""The page and its elements that are wider than the window."""

SCROLLED = """[...document.querySelectorAll('body *')].filter(e => {
    const flow = getComputedStyle(e).overflowX;
    return e.scrollWidth > e.clientWidth + 1 && e.clientWidth && flow !== 'visible'
        && !e.closest('svg');
}).map(e => e.tagName + '.' + e.className + ' ' + e.scrollWidth + ' > ' + e.clientWidth)"""
"""Elements that scroll, or cut their content, sideways."""

BROKEN = """(() => {
    const out = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        if (!node.parentElement.checkVisibility() || node.parentElement.closest('svg')) continue;
        for (const word of node.data.matchAll(/[\\p{L}\\p{N}]{2,}/gu)) {
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (word[0].length <= 24 && range.getClientRects().length > 1)
                out.push(word[0]);
        }
    }
    return out.slice(0, 20);
})()"""
"""Words that stand on more than one line. What names are broken after is no part of words."""

NUMBERS = """(() => {
    const out = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        if (!node.parentElement.checkVisibility() || node.parentElement.closest('svg')) continue;
        for (const word of node.data.matchAll(/[-+]?\\d[\\d,.]*\\d/g)) {
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (range.getClientRects().length > 1) out.push(word[0]);
        }
    }
    return out.slice(0, 20);
})()"""
"""Numbers that stand on more than one line."""

OVERLAPPING = """(() => {
    const out = [];
    for (const plot of document.querySelectorAll('.axis, .plot')) {
        if (!plot.checkVisibility()) continue;
        const ticks = [...plot.querySelectorAll('span')].map(e => [e, e.getBoundingClientRect()]);
        ticks.forEach(([e, a], i) => {
            for (const [f, b] of ticks.slice(i + 1)) {
                if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
                    out.push(e.textContent + ' | ' + f.textContent);
            }
        });
    }
    return out;
})()"""
"""Labels of charts that lie over each other."""

LABELLED = """[...document.querySelectorAll('table td')].filter(td =>
    td.checkVisibility() && getComputedStyle(td).display !== 'table-cell' && !td.dataset.l
    && td.textContent.trim()).map(td => td.textContent.trim().slice(0, 40)).slice(0, 9)"""
"""Cells of a table that became a block, without the name of their column."""

RULES = {
    "wider": WIDER,
    "scrolled": SCROLLED,
    "broken": BROKEN,
    "numbers": NUMBERS,
    "overlapping": OVERLAPPING,
    "labelled": LABELLED,
}
OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"
"""Unfold everything."""


def broken_rules(run: object) -> dict[str, list[str]]:
    """Return what breaks each rule. `run` evaluates an expression in the page."""
    assert callable(run)
    found = {name: run(code) for name, code in RULES.items()}
    return {name: places for name, places in found.items() if places}
