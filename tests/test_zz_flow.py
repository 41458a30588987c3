import asyncio
from fronts import *
from upstreams import *
async def test_a():
    async with ScriptedUpstream() as up, front(Proxy(up.url)) as fr:
        talk = fr.talk()
        talk.begin("POST", headers=(("expect", "100-continue"), ("content-length", "4")))
        await up.wait(lambda: up.requests)
        print(up.requests[0].raw)
        await talk.until(lambda talk: talk.informational == [100])
        talk.send(b"body")
        await turns(15)
        print(up.requests[0].raw, talk.untaken, fr.server.connections.tasks, asyncio.all_tasks())
        for c in fr.server.connections.open: print({k:getattr(c,k,None) for k in ("stream","_current","streams","reading_paused")}, c.__dict__ if hasattr(c,"__dict__") else "")
        assert 0
