"""The forwarding extension `openflow` under a real controller (os-ken): learning switch, access control, groups, statistics, death of the controller, TLS."""
import base64, json, os, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import host, net, openflow, suite, switch, traffic  # noqa: E402
from lab.authority import Authority  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.world import reachable  # noqa: E402

_made = {}
MAC = {n: f"52:54:00:cc:00:0{i}" for i, n in enumerate("xyz", 1)}
IP = {n: f"10.2.0.{i}" for i, n in enumerate("xyz", 1)}
DATAPATH = 0x525400001234


def world():
    """A switch with three host ports in namespaces x, y and z."""
    if not _made:
        openflow.environment()
        host.need("iputils-ping", "iproute2", "iperf3")
        s = switch.Turnpike()
        ends = {}
        for n in "xyz":
            ends[n] = net.Namespace()
            ends[n].tap = f"tpo{os.getpid() % 100000}{n}"
            s.cli("port", "add", f"host-{n}", "--tap", ends[n].tap, "--mac", MAC[n])
            host.sh("ip", "link", "set", ends[n].tap, "netns", ends[n].name)
            ends[n].run(f"echo 1 >/proc/sys/net/ipv6/conf/{ends[n].tap}/disable_ipv6; ip addr add {IP[n]}/24 dev {ends[n].tap}; ip link set {ends[n].tap} up")
        ends["y"].serve_iperf()
        _made.update(switch=s, **ends)
        _made["number"] = {n: s.show(f"host-{n}")["id"] for n in "xyz"}
    return _made


def enable(controller, mode="secure", **more):
    s = world()["switch"]
    file = host.work() / "openflow.json"
    config = {"controllers": [f"tcp:127.0.0.1:{controller.port}"], "datapath-id": f"{DATAPATH:x}", "fail-mode": mode, **more}
    file.write_text(json.dumps(config))
    return s.cli("extension", "enable", "openflow", "--config", file)


def disable():
    world()["switch"].cli("extension", "disable", "openflow", check=False)


def status():
    return world()["switch"].cli("extension", "show", "openflow")["status"]


def connected(yes=True):
    word = "connected" if yes else "not connected"
    host.until(f"the controller to be {word}", lambda: status()["controllers"][0]["state"] == word, 30)


def forget():
    """What the namespaces know of each other's addresses."""
    for n in "xyz":
        world()[n].run(f"ip neigh flush dev {world()[n].tap}")


def lost(source, to, count=3):
    return traffic.ping(world()[source], IP[to], count, interval=0.2).received == 0


def script(mode="secure", **more):
    c = openflow.Script()
    enable(c, mode, **more)
    must(c.connected() == DATAPATH, "the switch has another datapath id")
    return c


def flow(match, actions, priority=10, **more):
    """Code of a flow-mod."""
    extra = "".join(f", {k}={v}" for k, v in more.items())
    return (f"p.OFPFlowMod(dp, priority={priority}, match=p.OFPMatch({match}), "
            f"instructions=[p.OFPInstructionActions(ofp.OFPIT_APPLY_ACTIONS, [{actions}])]{extra})")


DELETE_ALL = "p.OFPFlowMod(dp, command=ofp.OFPFC_DELETE, out_port=ofp.OFPP_ANY, out_group=ofp.OFPG_ANY)"
FLOOD = "p.OFPActionOutput(ofp.OFPP_FLOOD)"


def to(*names):
    return ", ".join(f"p.OFPActionOutput({world()['number'][n]})" for n in names)


def stats(c, match=""):
    """Flow statistics by priority: [(packets, bytes)]."""
    got = c.do(f"p.OFPFlowStatsRequest(dp, 0, ofp.OFPTT_ALL, ofp.OFPP_ANY, ofp.OFPG_ANY, 0, 0, p.OFPMatch({match}))")
    rows = [row["OFPFlowStats"] for one in got for row in one["OFPFlowStatsReply"]["body"]]
    return {row["priority"]: (row["packet_count"], row["byte_count"]) for row in rows}


@test
def of13_os_kens_learning_switch_connects_hosts():
    c = openflow.Controller("simple_switch_13")
    enable(c)
    try:
        connected()
        forget()
        reachable(world()["x"], IP["y"])
        p = traffic.ping(world()["x"], IP["y"], 20, interval=0.02)
        must(p.lost == 0 and p.duplicates == 0, f"{p}, {p.duplicates} duplicates")
        must(traffic.ping(world()["x"], IP["z"], 10, interval=0.05).received >= 9, "z does not answer")
        seen = status()
        learned = [f for f in seen["flows"] if f["priority"] == 1]
        must(len(learned) >= 4 and seen["packet-ins"] >= 4 and seen["packet-outs"] >= 4, f"extension show: {seen}")
        must(sum(f["packets"] for f in learned) >= 38, f"counted: {learned}")
        must(traffic.ping(world()["z"], IP["y"], 1).received == 1, "the first ping of a pair is lost")
        f = traffic.iperf(world()["x"], IP["y"], 2)
        must(f.mbps > 50, f"only {f}")
        return str(f)
    finally:
        disable()
        c.kill()


@test
def of13_entries_admit_deny_and_count_by_priority():
    c = script()
    try:
        forget()
        must(lost("x", "y"), "an empty table forwards")
        c.do(flow("eth_type=0x806", FLOOD, 5), flow("", FLOOD, 1))
        reachable(world()["x"], IP["y"])
        c.do(flow(f"eth_type=0x800, ipv4_dst=('{IP['y']}', '255.255.255.255'), ip_proto=1", "", 20))
        must(lost("x", "y") and not lost("x", "z"), "the entry does not deny its own frames only")
        c.do("p.OFPFlowMod(dp, command=ofp.OFPFC_DELETE, out_port=ofp.OFPP_ANY, out_group=ofp.OFPG_ANY, cookie=0, match=p.OFPMatch(eth_type=0x800))")
        c.do(flow(f"eth_type=0x800, ipv4_src='{IP['x']}'", to("y"), 30, cookie=7), flow(f"eth_type=0x800, ipv4_src='{IP['y']}'", to("x"), 31, cookie=8))
        p = traffic.ping(world()["x"], IP["y"], 25, interval=0.02)
        must(p.received == 25, f"{p}")
        got = stats(c)
        must(got[30] == got[31] == (25, 25 * 98), f"25 pings of 98 bytes each way are counted as {got}")
        own = c.do("p.OFPFlowStatsRequest(dp, 0, 0, ofp.OFPP_ANY, ofp.OFPG_ANY, 7, 0xff, p.OFPMatch())")
        must([r["OFPFlowStats"]["priority"] for r in own[0]["OFPFlowStatsReply"]["body"]] == [30], f"by cookie: {own}")
        total = c.do("p.OFPAggregateStatsRequest(dp, 0, 0, ofp.OFPP_ANY, ofp.OFPG_ANY, 7, 7, p.OFPMatch(eth_type=0x800))")
        must(total[0]["OFPAggregateStatsReply"]["body"]["OFPAggregateStats"]["packet_count"] == 25, f"{total}")
        ports = c.do("p.OFPPortStatsRequest(dp, 0, ofp.OFPP_ANY)", "p.OFPTableStatsRequest(dp, 0)", "p.OFPDescStatsRequest(dp, 0)", "p.OFPPortDescStatsRequest(dp, 0)")
        rows = {r["OFPPortStats"]["port_no"]: r["OFPPortStats"] for r in ports[0]["OFPPortStatsReply"]["body"]}
        must(rows[world()["number"]["x"]]["rx_packets"] >= 25 and rows[world()["number"]["y"]]["tx_packets"] >= 25, f"{rows}")
        names = {r["OFPPort"]["name"] for r in ports[3]["OFPPortDescStatsReply"]["body"]}
        must(names == {"host-x", "host-y", "host-z"}, f"ports: {names}")
        table = ports[1]["OFPTableStatsReply"]["body"][0]["OFPTableStats"]
        must(table["active_count"] == 4 and table["lookup_count"] >= table["matched_count"] >= 50, f"{table}")
    finally:
        disable()
        c.kill()


@test
def of13_timeouts_end_entries_and_are_told():
    c = script()
    try:
        c.do(flow("", FLOOD, 1), flow("eth_type=0x88b5", FLOOD, 9, hard_timeout=1, flags="ofp.OFPFF_SEND_FLOW_REM", cookie=1),
             flow(f"eth_type=0x800, ipv4_dst='{IP['y']}'", to("y"), 8, idle_timeout=2, flags="ofp.OFPFF_SEND_FLOW_REM", cookie=2))
        forget()
        traffic.ping(world()["x"], IP["y"], 14, interval=0.25)  # longer than the idle timeout
        ended = [n["OFPFlowRemoved"] for n in c.heard() if "OFPFlowRemoved" in n]
        must([(e["cookie"], e["reason"]) for e in ended] == [(1, 1)], f"while frames flowed: {ended}")
        time.sleep(2.6)
        ended = [n["OFPFlowRemoved"] for n in c.heard() if "OFPFlowRemoved" in n]
        must([(e["cookie"], e["reason"], e["packet_count"]) for e in ended] == [(2, 0, 14)], f"after them: {ended}")
    finally:
        disable()
        c.kill()


@test
def of13_groups_packet_outs_and_packet_ins_carry_whole_frames():
    c = script()
    w = world()
    try:
        two = "[p.OFPBucket(actions=[%s]), p.OFPBucket(actions=[%s])]" % (to("y"), to("z"))
        c.do(f"p.OFPGroupMod(dp, ofp.OFPGC_ADD, ofp.OFPGT_ALL, 1, {two})", flow("eth_type=0x88b5", "p.OFPActionGroup(1)"),
             flow("eth_type=0x88b6", "p.OFPActionOutput(ofp.OFPP_CONTROLLER)"))
        x = bytes.fromhex(MAC["x"].replace(":", ""))
        copy = b"\xff" * 6 + x + bytes.fromhex("88b5") + b"to-the-group" * 5
        with net.ear(w["x"], w["x"].tap) as mouth, net.ear(w["y"], w["y"].tap) as y, net.ear(w["z"], w["z"].tap) as z:
            mouth.say(copy)
            must(y.wait_for(lambda f: b"to-the-group" in f) == z.wait_for(lambda f: b"to-the-group" in f) == copy, "a copy is another frame")
            shown = b"\xff" * 6 + x + bytes.fromhex("88b6") + bytes(range(256)) * 5
            mouth.say(shown)
            time.sleep(0.3)
            ins = [n["OFPPacketIn"] for n in c.heard() if "OFPPacketIn" in n]
            must(len(ins) == 1 and base64.b64decode(ins[0]["data"]) == shown and ins[0]["total_len"] == len(shown), f"packet-in: {ins}")
            out = b"\xff" * 6 + x + bytes.fromhex("88b7") + b"from-the-controller" * 40
            say = "p.OFPPacketOut(dp, ofp.OFP_NO_BUFFER, %d, [%s], bytes.fromhex('%s'))"
            c.do(say % (w["number"]["x"], to("y"), out.hex()))
            must(y.wait_for(lambda f: b"from-the-c" in f) == out, "the packet-out is another frame")
            must(not z.all(lambda f: b"from-the-c" in f), "z got what was for y")
            c.do(say % (w["number"]["x"], FLOOD, out.hex()))
            must(y.wait_for(lambda f: b"from-the-c" in f) == z.wait_for(lambda f: b"from-the-c" in f) == out, "FLOOD does not reach all")
            c.do(flow("eth_type=0x88b8", f"p.OFPActionSetField(eth_dst='{MAC['z']}'), {to('z')}", 50))
            mouth.say(b"\xff" * 6 + x + bytes.fromhex("88b8") + b"changed" * 10)
            got = z.wait_for(lambda f: b"changed" in f)
            must(got[:6] == bytes.fromhex(MAC["z"].replace(":", "")), f"the address was not set: {got[:14].hex()}")
            must(not y.all(lambda f: b"changed" in f), "y got what was for z")
        got = c.do("p.OFPGroupStatsRequest(dp, 0, ofp.OFPG_ALL)", "p.OFPGroupDescStatsRequest(dp, 0)")
        group = got[0]["OFPGroupStatsReply"]["body"][0]["OFPGroupStats"]
        must((group["packet_count"], group["ref_count"], len(group["bucket_stats"])) == (1, 1, 2), f"{group}")
        must(len(got[1]["OFPGroupDescStatsReply"]["body"][0]["OFPGroupDescStats"]["buckets"]) == 2, f"{got[1]}")
    finally:
        disable()
        c.kill()


@test
def of13_what_is_not_there_is_refused_with_the_standards_error():
    c = script()
    try:
        error = lambda code: [(e["OFPErrorMsg"]["type"], e["OFPErrorMsg"]["code"]) for e in c.do(code) if "OFPErrorMsg" in e]
        cases = [(flow("", "p.OFPActionPushVlan(0x8100)"), (2, 0)), (flow("", "p.OFPActionPopVlan()"), (2, 0)),
                 (flow("", "p.OFPActionSetField(ipv4_dst='1.2.3.4')"), (2, 13)), (flow("", "p.OFPActionGroup(99)"), (2, 9)),
                 (flow("", f"{FLOOD}, p.OFPActionSetField(eth_dst='02:00:00:00:00:01')"), (2, 11)),
                 (flow("", FLOOD, table_id=3), (5, 2)), (flow("tcp_dst=80", FLOOD), (4, 9)), (flow("metadata=1", FLOOD), (4, 6)),
                 ("p.OFPFlowMod(dp, instructions=[p.OFPInstructionGotoTable(1)])", (3, 2)), ("p.OFPMeterMod(dp)", (1, 1)),
                 ("p.OFPGroupMod(dp, ofp.OFPGC_ADD, ofp.OFPGT_SELECT, 5, [])", (6, 10)), ("p.OFPTableFeaturesStatsRequest(dp, 0, [])", (1, 2)),
                 ("p.OFPPacketOut(dp, 5, 1, [])", (1, 8))]
        for code, expected in cases:
            got = error(code)
            must(got == [expected], f"{code}: {got} instead of {expected}")
        must(status()["flow-count"] == 0, "something refused is in the table")
    finally:
        disable()
        c.kill()


@test
def of13_ports_that_come_and_go_are_told():
    c = script()
    s = world()["switch"]
    try:
        c.heard()
        s.cli("port", "add", "late", "--tap", f"tpo{os.getpid() % 100000}l", "--mac", "52:54:00:cc:00:09")
        s.cli("port", "remove", "late")
        time.sleep(0.4)
        told = [n["OFPPortStatus"] for n in c.heard() if "OFPPortStatus" in n]
        reasons = [t["reason"] for t in told]
        must(reasons and reasons[0] == 0 and reasons[-1] == 1 and {t["desc"]["OFPPort"]["name"] for t in told} == {"late"}, f"{told}")
    finally:
        disable()
        c.kill()


@test
def of13_without_its_controller_a_secure_switch_keeps_to_the_table_and_a_standalone_one_forwards():
    for mode in ("secure", "standalone"):
        c = script(mode)
        try:
            c.do(flow("eth_type=0x806", FLOOD, 5), flow(f"eth_type=0x800, ipv4_dst='{IP['y']}'", to("y"), 6),
                 flow(f"eth_type=0x800, ipv4_dst='{IP['x']}'", to("x"), 6))
            forget()
            reachable(world()["x"], IP["y"])
            must(lost("x", "z"), "no entry leads to z")
            c.kill()
            connected(False)
            must(not lost("x", "y"), f"{mode}: what the table allowed is lost")
            must(lost("x", "z") == (mode == "secure"), f"{mode}: z is {'lost' if lost('x', 'z') else 'reached'} without the controller")
            c.start()
            c.connected()
            connected()
            must(not lost("x", "y") and lost("x", "z"), f"{mode}: the table is not in force again")
        finally:
            disable()
            c.kill()


@test
def of13_a_controller_is_spoken_to_in_tls_and_only_one_that_the_authority_knows():
    authority, stranger = Authority("switches"), Authority("strangers")
    own = dict(zip(("certificate", "key", "ca"), map(str, authority.sign("switch", "127.0.0.1")[1::2])))
    c = openflow.Script(tls=authority.sign("controller", "127.0.0.1"))
    try:
        wrong = {**own, "ca": "/nowhere/ca.pem"}
        s, file = world()["switch"], host.work() / "wrong.json"
        base = {"controllers": [f"tls:127.0.0.1:{c.port}"], "datapath-id": "1"}
        for config, word in (({**base, **wrong}, "/nowhere/ca.pem"), (base, "'ca' is missing"), ({**base, "controllers": ["tcp:example"]}, "no address")):
            file.write_text(json.dumps(config))
            code, text = s.cli("extension", "enable", "openflow", "--config", file, check=False)
            must(code != 0 and word in text, f"refused as: {text}")
        enable(c, controllers=base["controllers"], **own)
        must(c.connected() == DATAPATH, "another switch")
        c.do(flow("", FLOOD))
        forget()
        reachable(world()["x"], IP["y"])
        disable()
        enable(c, controllers=base["controllers"], **{**own, "ca": str(stranger.ca)})
        refused = host.until("the refusal", lambda: status()["controllers"][0].get("reason"), 10)
        must("certificate" in refused, f"refused as: {refused}")
    finally:
        disable()
        c.kill()


@test
def switch_ends_cleanly():
    world()["switch"].must_end_cleanly()


suite.run()
