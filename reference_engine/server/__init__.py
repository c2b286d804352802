"""OpenAI's interface to an engine, in two processes.

    HTTP, WebSocket ──▶ app ──┐
    gRPC ──▶ grpc_service ────┴▶ intake ── schemas ──▶ generation ──▶ engine_client ══▶ engine_process ──▶ Engine
     ◀── http_responses, websocket, grpc_service ◀── answers, formats ◀── text, stop strings ◀══ one message per step

serve.py starts both and decides how they end; channel.py is what they say to each other; metrics.py and logs.py tell
how it goes; errors.py is what clients are told when it does not. beam_generation.py stands beside generation.py for
requests that search beams. openapi.py describes all of it, of schemas.py and answer_schemas.py.
"""
