"""The engine in a process of its own: how it is started, spoken to, and noticed when it is gone.

One socket pair joins it to the server process. Down go requests and cancels, up goes what each step produced, both as
pickled messages of `worker.types` and `worker.engine_process.messages`. Whichever side ends, the other sees the socket
close: the engine process ends at once, and the server process fails what was in flight.
"""
