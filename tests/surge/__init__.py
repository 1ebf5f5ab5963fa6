"""More people than the relay can serve, on the real stack: played, looked at every few seconds, drawn and judged.

`profiles` says who comes; `play` lets them come and looks; `judge` says which promises were broken; `picture` draws;
`run` is the command behind `make demo-surge`.
"""
