"""A gNMI device of the public stubs (pygnmi, grpcio): prints its port, then what it was asked, one line each."""
import sys
import time
from concurrent import futures

import grpc
from pygnmi.spec.v080 import gnmi_pb2, gnmi_pb2_grpc


def elems(text):
    out = []
    for part in text.strip("/").split("/"):
        name, _, key = part.partition("[")
        keys = dict([key.rstrip("]").split("=")]) if key else {}
        out.append(gnmi_pb2.PathElem(name=name, key=keys))
    return gnmi_pb2.Path(elem=out)


class Device(gnmi_pb2_grpc.gNMIServicer):
    def Subscribe(self, requests, context):
        asked = next(requests).subscribe
        path = asked.subscription[0].path
        login = dict(context.invocation_metadata()).get("username")
        names = "/".join(e.name for e in path.elem)
        mode = gnmi_pb2.SubscriptionMode.Name(asked.subscription[0].mode)
        encoding = gnmi_pb2.Encoding.Name(asked.encoding)
        print("asked", names, mode, encoding, asked.subscription[0].sample_interval, login, flush=True)
        for n in range(3):
            val = gnmi_pb2.TypedValue
            update = [
                gnmi_pb2.Update(path=elems("in-fcs-errors"), val=val(uint_val=5 * n)),
                gnmi_pb2.Update(path=elems("in-pkts"), val=val(uint_val=1_000 * n)),
                gnmi_pb2.Update(path=elems("out-discards"), val=val(json_ietf_val=b'"%d"' % n)),
                gnmi_pb2.Update(path=elems("in-octets"), val=val(leaflist_val=gnmi_pb2.ScalarArray())),
            ]
            told = gnmi_pb2.Notification(
                timestamp=time.time_ns(), prefix=elems("interfaces/interface[name=Ethernet8]/state/counters"), update=update
            )
            yield gnmi_pb2.SubscribeResponse(update=told)
            if n == 0:
                yield gnmi_pb2.SubscribeResponse(sync_response=True)
        # Until the other side goes.
        for _ in requests:
            pass


server = grpc.server(futures.ThreadPoolExecutor(4))
gnmi_pb2_grpc.add_gNMIServicer_to_server(Device(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
