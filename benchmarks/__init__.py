"""The same work done by this project and by its peers, in one run: `make bench`.

- `training`: a step of training, forward, backward and optimiser, at equal architecture.
- `race`: time to the loss that nanoGPT's recipe for a CPU ends with.
- `generation`: tokens per second with a cache, and what a token costs late in a text.
- `memory`: what attention needs at lengths from 256 to 8192.

`peers` builds the other libraries' models, `measure` takes the times, `results` compares with
what is recorded and writes, `plots` draws. Times are kept as ratios of one run only: they are
what carries over from one machine to the next.
"""
