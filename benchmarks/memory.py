"""What attention needs beyond what it is given, at lengths up to 8192: 4 heads, 32 wide, causal.

Each measurement is a process of its own: memory that another one has left behind would hide what
is needed. `python -m benchmarks.memory plain 8192` is one of them.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.measure import alternate, ratios, row
from benchmarks.peers import Incomparable
from decoder.attention import Attend, causal_mask
from decoder.blockwise import BlockwiseAttend

N_HEADS, D_HEAD = 4, 32
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
WAYS = ("plain", "blockwise", "sdpa")
SAME = 1e-5
LATEST = Path("/proc/self/status")  # Linux: the highest memory so far, which can be set back
RESET = Path("/proc/self/clear_refs")


def run(rounds=5, quick=False):
    """Returns the rows, and the memory of each way at each length, in bytes."""
    lengths = (256, 512) if quick else LENGTHS
    longest = lengths[-1]
    needed = {way: [child(way, seq)["bytes"] for seq in lengths] for way in WAYS}
    # Memory does not vary as time does: three processes are enough to see that.
    again = [(child("plain", longest), child("blockwise", longest)) for _ in range(min(rounds, 3))]
    plain, blocks = zip(*([a["bytes"] for a in pair] for pair in again), strict=True)
    compared = child("compare", longest, rounds)
    work = f"{longest} tokens, {N_HEADS} heads × {D_HEAD}, forward"
    if not compared["difference"] < SAME:
        raise Incomparable(f"blocks differ from plain attention by {compared['difference']:.1e}")
    rows = [
        row(work, "memory, plain ÷ blockwise", ratios(plain, blocks), None if quick else 16.0),
        row(work, "time, blockwise ÷ plain", compared["ratios"], 1.5, better="lower"),
    ]
    notes = [f"Largest difference between blockwise and plain: {compared['difference']:.1e}."]
    return rows, {"notes": notes, "lengths": list(lengths), "bytes": needed}


def child(way, seq, rounds=1):
    """What one process of its own measures.

    Raises:
        Incomparable: it failed; says with what.
    """
    command = [sys.executable, "-m", "benchmarks.memory", way, str(seq), str(rounds)]
    command.append(str(torch.get_num_threads()))
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        last = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Incomparable(f"{way} at {seq} tokens: {last[-1]}")
    return json.loads(done.stdout)


def ways():
    """name -> a function (q, k, v) -> z, causal."""
    attend, blockwise = Attend(), BlockwiseAttend()

    def plain(q, k, v):
        return attend(q, k, v, causal_mask(q.shape[-2], k.shape[-2]))[0]

    return {
        "plain": plain,
        "blockwise": lambda q, k, v: blockwise(q, k, v, causal_mask)[0],
        "sdpa": lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
    }


def inputs(seq):
    """q, k and v: (1, N_HEADS, seq, D_HEAD) each."""
    torch.manual_seed(0)
    return [torch.randn(1, N_HEADS, seq, D_HEAD) for _ in range(3)]


def extra_bytes(attend, seq):
    """The highest memory while attention works, above what the process held before."""
    given = inputs(seq)
    attend(*inputs(16))  # what is loaded and set up at the first use is not attention's
    before = _reset_highest()
    attend(*given)
    return highest() - before


def highest():
    """The most memory that this process has held, in bytes."""
    if LATEST.exists():
        line = next(x for x in LATEST.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # macOS, in bytes; a child of a large parent would begin with its parent's

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_highest():
    try:
        RESET.write_text("5")
    except OSError:
        pass  # then it is counted from the highest so far, which is little above
    return highest()


def main(way, seq, rounds, threads):
    """What a child prints."""
    torch.set_num_threads(int(threads))
    seq = int(seq)
    with torch.no_grad():
        if way != "compare":
            return {"bytes": extra_bytes(ways()[way], seq)}
        plain, blockwise, given = ways()["plain"], ways()["blockwise"], inputs(seq)
        difference = (plain(*given) - blockwise(*given)).abs().max().item()
        seconds = alternate(
            {"plain": lambda: plain(*given), "blockwise": lambda: blockwise(*given)}, int(rounds)
        )
    return {"difference": difference, "ratios": ratios(seconds["blockwise"], seconds["plain"])}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
