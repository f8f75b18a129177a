import asyncio, sys, pytest, grpc
from rpc.byte_service import ARITIES, serving_bytes, contract
from rpc.client_bench import ClientBench
@pytest.mark.parametrize("kind", ["stock", "ours", "pass"])
async def test_x(kind):
    out=[]
    class P1(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, c, d, r): return await c(d, r)
    class P2(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, c, d, r): return await c(d, r)
    class P3(grpc.aio.StreamUnaryClientInterceptor):
        async def intercept_stream_unary(self, c, d, r): return await c(d, r)
    class P4(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, c, d, r): return await c(d, r)
    for n in range(40):
      async with serving_bytes() as (service, target):
        ch = {"stock": lambda: grpc.aio.insecure_channel(target), "ours": lambda: ClientBench(target, contract()).channel, "pass": lambda: grpc.aio.insecure_channel(target, interceptors=[P1(),P2(),P3(),P4()])}[kind]()
        async with ch:
            for arity in ARITIES:
                stage="warm"
                await arity.responses(arity.call(ch, b"echo"))
                service.hanging.clear(); service.hung_up.clear()
                async def go(): await arity.responses(arity.call(ch, b"hang"))
                t=asyncio.create_task(go())
                try:
                    async with asyncio.timeout(1.5):
                        stage="hanging"; await service.hanging.wait()
                        t.cancel(); stage="caller"
                        try: await t
                        except asyncio.CancelledError: pass
                        stage="hung_up"; await service.hung_up.wait()
                except TimeoutError:
                    out.append((n, arity.name, stage))
    print("OUT", kind, out)
