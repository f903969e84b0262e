"""An os-ken application that carries out expressions of a test, one line of JSON each, and answers with what the switch said."""
import json, os, queue, socketserver, threading

from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import CONFIG_DISPATCHER, DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib import packet  # noqa: F401 (for expressions)
from os_ken.ofproto import ofproto_v1_3

BOTH = [CONFIG_DISPATCHER, MAIN_DISPATCHER]
REPLIES = ("Barrier", "FlowStats", "AggregateStats", "TableStats", "PortStats", "DescStats", "GroupStats", "GroupDescStats",
           "GroupFeaturesStats", "PortDescStats", "Role", "Echo", "GetConfig", "GetAsync")
ASYNC = ("PacketIn", "FlowRemoved", "PortStatus")


class Script(app_manager.OSKenApp):
    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dp, self.answers, self.news, self.lock = None, queue.Queue(), queue.Queue(), threading.Lock()
        app = self

        class Line(socketserver.StreamRequestHandler):
            def handle(self):
                code = json.loads(self.rfile.readline())
                with app.lock:
                    try:
                        answer = app.carry_out(code)
                    except Exception as e:
                        answer = {"failed": repr(e)}
                self.wfile.write(json.dumps(answer, default=repr).encode() + b"\n")

        socketserver.TCPServer.allow_reuse_address = True  # a controller that died comes back at once
        server = socketserver.ThreadingTCPServer(("127.0.0.1", int(os.environ["SCRIPT_PORT"])), Line)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def changed(self, ev):
        if ev.state == MAIN_DISPATCHER:
            self.dp = ev.datapath
        elif self.dp is ev.datapath:
            self.dp = None

    def carry_out(self, code):
        dp = self.dp
        if code == "":
            return dp.id if dp else None
        if code == "heard":
            news = []
            while not self.news.empty():
                news.append(self.news.get())
            return news
        if dp is None:
            raise ConnectionError("no switch is connected")
        while not self.answers.empty():
            self.answers.get()
        ofp, p = dp.ofproto, dp.ofproto_parser
        for message in eval(code, {"dp": dp, "ofp": ofp, "p": p, "packet": packet}):
            dp.send_msg(message)
        barrier = p.OFPBarrierRequest(dp)
        dp.send_msg(barrier)
        got = []
        while True:
            message = self.answers.get(timeout=10)
            if message.msg_type == ofp.OFPT_BARRIER_REPLY and message.xid == barrier.xid:
                return got
            got.append(message.to_jsondict())

    @set_ev_cls(ofp_event.EventOFPErrorMsg, BOTH)
    def error(self, ev):
        self.answers.put(ev.msg)


def _keep(name, where):
    def keep(self, ev):
        # to_jsondict leaves packets as text of base64; that is all that tests look at.
        getattr(self, where).put(ev.msg if where == "answers" else ev.msg.to_jsondict())
    keep.__name__ = f"keep_{name.lower()}"
    event = getattr(ofp_event, f"EventOFP{name}")
    setattr(Script, keep.__name__, set_ev_cls(event, BOTH)(keep))


for _name in REPLIES:
    _keep(f"{_name}Reply", "answers")
for _name in ASYNC:
    _keep(_name, "news")
