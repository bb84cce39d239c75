"""Chaos: real workers are killed, stopped and cut off while orders are saved; then it is judged
whether what arrived is what was committed.

`__main__` runs it (`make chaos`), `engines` says what a worker is, `shop` saves, `injector` does
the harm, `ledger` keeps what arrived, `judge` decides. `inside` is what a worker process under
test has in itself: a short lease, a wrong clock, a point at which it dies.
"""
