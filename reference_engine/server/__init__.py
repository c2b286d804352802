"""OpenAI's HTTP interface to an engine, in two processes.

    client ── HTTP ──▶ app ── schemas ──▶ generation ──▶ engine_client ══ channel ══▶ engine_process ──▶ Engine
           ◀── SSE ── answers ◀─ formats ◀─ text, stop strings ◀─ one message per step ◀═══════════════╝

serve.py starts both and decides how they end; metrics.py and logs.py tell how it goes; errors.py is what clients are
told when it does not.
"""
