"""Hosts that share their policy in a real etcd, which is killed, hung, compacted and given wrong values. Words on the command line select."""
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import host, suite  # noqa: E402
from lab.authority import Authority  # noqa: E402
from lab.etcd import PREFIX, Etcd, free_port  # noqa: E402
from lab.fabric import Fabric, NvHost  # noqa: E402
from lab.host import sh  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.switch import Turnpike  # noqa: E402
from lab.world import reachable  # noqa: E402

BLUE = "11111111-1111-1111-1111-111111111111"
_serial = iter(range(1, 1000))


def record(n, pa="192.168.1.1", vsid=5001):
    """The value of record `n`, and its key."""
    ca = f"10.1.{n // 200}.{n % 200 + 2}"
    return f"records/{vsid}/{ca}", {"vsid": vsid, "ca": ca, "mac": f"02:00:00:00:{n // 256:02x}:{n % 256:02x}", "pa": pa}


def switch(etcd, name, *more, vsid=5001):
    """A switch with a guest's port in that virtual subnet, so that it holds its records."""
    s = Turnpike("--policy-store", etcd.address, "--host-id", name, *more, name=f"{name}{next(_serial)}")
    if vsid:
        s.port("guest", "--vsid", vsid)
    return s


def records(s):
    return {r.get("ca", r["mac"]): r["pa"] for r in s.cli("nv", "record", "list")}


def until(what, condition, timeout=20):
    return host.until(what, condition, timeout, 0.02)


def store(s):
    return s.cli("nv", "store")


def blue(s):
    s.cli("nv", "network", "add", "blue", "--rdid", BLUE)
    s.cli("nv", "subnet", "add", "--network", "blue", "--vsid", 5001, "--prefix", "10.1.0.0/16")


@test
def s14_9_what_one_host_says_all_hosts_know_and_etcdctl_reads():
    etcd = Etcd()
    a, b = switch(etcd, "a"), switch(etcd, "b")
    until("both to be there", lambda: store(a)["up"] and store(b)["up"])
    blue(a)
    a.cli("nv", "record", "add", "--vsid", 5001, "--ca", "10.1.0.2", "--mac", "02:00:00:00:00:01", "--pa", "192.168.1.1")
    a.cli("nv", "route", "add", "--network", "blue", "--prefix", "0.0.0.0/0", "--next-hop", "10.1.0.2")
    must(records(a) == {"10.1.0.2": "192.168.1.1"}, "the host that said it knows it when the command returns")
    until("the other to know it", lambda: records(b) == records(a))
    must([n["name"] for n in b.cli("nv", "network", "list")] == ["blue"], "networks, too")
    must(etcd.get("records/5001/10.1.0.2")["pa"] == "192.168.1.1", "the key is the object's name")
    must(etcd.get("routes/blue/0.0.0.0/0/10.1.0.2") is not None, "the route's, too")
    until("hosts to see each other", lambda: store(b)["hosts"] == ["a", "b"])
    code, text = b.cli("nv", "record", "add", "--vsid", 5001, "--ca", "10.1.0.2", "--mac", "02:00:00:00:00:09", "--pa", "192.168.1.1", check=False)
    must(code == 1 and "has a record with MAC address 02:00:00:00:00:01 already" in text, text)
    revision = etcd.revision()
    b.cli("nv", "record", "set", "--vsid", 5001, "--ca", "10.1.0.2", "--pa", "192.168.1.2")
    must(etcd.revision() == revision + 1, "a move is one transaction")
    until("the move to be known", lambda: records(a) == {"10.1.0.2": "192.168.1.2"})
    a.process.terminate()
    until("a host that ends to be gone", lambda: store(b)["hosts"] == ["b"])


@test
def s14_9_a_document_of_thousands_is_imported_and_a_wrong_one_not_at_all():
    etcd = Etcd()
    a, b = switch(etcd, "a"), switch(etcd, "b")
    until("both to be there", lambda: store(a)["up"] and store(b)["up"])
    document = {"network": [{"name": "blue", "rdid": BLUE}], "subnet": [{"network": "blue", "vsid": 5001, "prefix": "10.1.0.0/16"}],
                "record": [record(n)[1] for n in range(5000)]}
    path = host.work() / "policy.json"
    document["record"].append({**record(7)[1], "mac": "02:00:00:00:ff:ff"})
    path.write_text(json.dumps(document))
    code, text = a.cli("nv", "import", path, check=False)
    must(code == 1 and "record '5001/10.1.0.9'" in text and store(b)["revision"] <= etcd.revision() and not records(a), text)
    must(etcd.get("networks/blue") is None, "nothing of it was written")
    document["record"].pop()
    path.write_text(json.dumps(document))
    a.cli("nv", "import", path)
    until("all of it at the other host", lambda: len(records(b)) == 5000)
    must(a.cli("nv", "import", path)["changes"] == [], "again changes nothing")
    exported = b.cli("nv", "export")
    must(len(exported["record"]) == 5000 and exported["subnet"] == [{"network": "blue", "vsid": 5001, "prefix": ["10.1.0.0/16"]}], "as it was said")


@test
def s14_9_a_host_holds_the_records_of_its_networks_and_can_change_and_export_all():
    etcd = Etcd()
    a, b = switch(etcd, "a"), switch(etcd, "b", vsid=None)
    until("both to be there", lambda: store(a)["up"] and store(b)["up"])
    blue(a)
    a.cli("nv", "network", "add", "red", "--rdid", BLUE.replace("1", "2"))
    for vsid, network, prefix in ((5002, "blue", "10.2.0.0/16"), (6001, "red", "10.1.0.0/16")):
        a.cli("nv", "subnet", "add", "--network", network, "--vsid", vsid, "--prefix", prefix)
    words = lambda vsid, ca, n: ("--vsid", vsid, "--ca", ca, "--mac", f"02:00:00:00:00:{n:02x}", "--pa", "192.168.1.1")
    b.cli("nv", "record", "add", *words(5001, "10.1.0.2", 1))
    b.cli("nv", "record", "add", *words(5002, "10.2.0.2", 2))
    b.cli("nv", "record", "add", *words(6001, "10.1.0.3", 3))
    until("those of its network, and of all its subnets", lambda: set(records(a)) == {"10.1.0.2", "10.2.0.2"})
    must(records(b) == {}, "a host without ports holds none")
    must(len(b.cli("nv", "export")["record"]) == 3 and b.cli("nv", "export") == a.cli("nv", "export"), "but exports all")
    code, text = b.cli("nv", "record", "add", *words(6001, "10.1.0.3", 9), check=False)
    must(code == 1 and "has a record with MAC address 02:00:00:00:00:03 already" in text, text)
    b.cli("nv", "record", "set", "--vsid", 6001, "--ca", "10.1.0.3", "--pa", "192.168.1.2")
    must(etcd.get("records/6001/10.1.0.3")["pa"] == "192.168.1.2", "and changes what it does not hold")
    code, text = b.cli("nv", "subnet", "remove", 6001, check=False)
    must(code == 1 and "record" in text and etcd.get("subnets/6001"), text)
    path = host.work() / "all.json"
    path.write_text(json.dumps(b.cli("nv", "export")))
    must(b.cli("nv", "import", path)["changes"] == [], "what is exported is what there is")
    b.port("guest", "--vsid", 6001)
    must(records(b) == {"10.1.0.3": "192.168.1.2"}, "a port's records are there when it is")
    b.cli("nv", "record", "remove", "--vsid", 5002, "--ca", "10.2.0.2")
    until("what is removed to be gone", lambda: set(records(a)) == {"10.1.0.2"})
    etcd.kill()
    until("the loss to be noticed", lambda: not store(b)["up"], 10)
    code, text = b.cli("nv", "export", check=False)
    must(code == 1 and "the policy store does not answer" in text, f"a part is not exported as all: {text}")


@test
def s14_9_without_the_store_everything_goes_on_and_it_converges_when_it_is_back():
    etcd = Etcd()
    a = switch(etcd, "a")
    until("it to be there", lambda: store(a)["up"])
    blue(a)
    for n in range(3):
        etcd.put(*record(n))
    until("records", lambda: len(records(a)) == 3)
    etcd.kill()
    until("the loss to be noticed", lambda: not store(a)["up"], 10)
    must(len(records(a)) == 3, "what is known stays")
    began = time.monotonic()
    code, text = a.cli("nv", "record", "remove", "--vsid", 5001, "--ca", "10.1.0.2", check=False)
    must(code == 1 and "the policy store does not answer" in text and time.monotonic() - began < 3, f"{text}, {time.monotonic() - began}")
    text = subprocess.run(["curl", "-s", "--unix-socket", str(a.api), "http://x/metrics"], capture_output=True, text=True).stdout
    must("turnpike_policy_store_up 0" in text and "turnpike_policy_store_losses_total 1" in text, "the metrics say so")
    kinds = [e["kind"] for e in events(a)]
    must("policy-store-up" in kinds and "policy-store-lost" in kinds, f"{set(kinds)}")
    etcd.start()
    etcd.put(*record(9))
    until("what came meanwhile", lambda: "10.1.0.11" in records(a))
    etcd.hang()
    until("a store that hangs to be noticed", lambda: not store(a)["up"], 15)
    etcd.go_on()
    until("it to be back", lambda: store(a)["up"], 20)
    etcd.kill()

    def meanwhile():
        etcd.put(*record(0, "192.168.1.9"))
        etcd.delete("records/5001/10.1.0.3")
        etcd.compact()

    etcd.elsewhere(meanwhile)
    until("everything read again", lambda: records(a).get("10.1.0.2") == "192.168.1.9" and "10.1.0.3" not in records(a))
    must(store(a)["reloads"] == 1, f"{store(a)}")


def events(s):
    out = subprocess.run([str(s.binary), "--api", str(s.api), "--json", "events"], capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


@test
def s14_9_a_wrong_value_changes_nothing_and_is_named():
    etcd = Etcd()
    a = switch(etcd, "a")
    until("it to be there", lambda: store(a)["up"])
    blue(a)
    key, value = record(0)
    etcd.put(key, value)
    until("the record", lambda: len(records(a)) == 1)
    etcd.put(key, {**value, "vsid": 5002})
    etcd.put("subnets/5002", {"network": "blue", "vsid": 5002, "prefix": "10.2.0.0/33"})
    etcd.put("subnets/5003", {"network": "blue", "vsid": 5003, "prefix": "10.1.7.0/24"})
    until("the keys to be named", lambda: store(a)["skipped"] == 2)
    must(set(store(a)["skipped_keys"]) == {PREFIX + key, PREFIX + "subnets/5002"}, f"{store(a)}")
    must(records(a) == {"10.1.0.2": "192.168.1.1"}, "the last good value stays")
    text = until("what fits to nothing to be told", lambda: next((e for e in events(a) if e["kind"] == "policy-misfit"), None))
    must("overlaps 10.1.0.0/16 of subnet 5001" in text["reason"], f"{text}")
    etcd.put(key, {**value, "pa": "192.168.1.2"})
    etcd.delete("subnets/5002")
    until("the right value", lambda: records(a) == {"10.1.0.2": "192.168.1.2"} and store(a)["skipped"] == 0)


@test
def s14_9_a_restarted_and_a_taken_over_switch_know_what_they_knew():
    etcd = Etcd()
    a = switch(etcd, "a")
    until("it to be there", lambda: store(a)["up"])
    blue(a)
    for n in range(5):
        etcd.put(*record(n))
    until("records", lambda: len(records(a)) == 5)
    etcd.hang()
    a.take_over()
    must(len(records(a)) == 5 and len(a.cli("nv", "subnet", "list")) == 1, "a successor knows without the store")
    etcd.go_on()
    until("the successor to follow", lambda: store(a)["up"])
    etcd.put(*record(7))
    until("changes", lambda: len(records(a)) == 6)
    a.process.terminate()
    a.process.wait(10)
    a.start()
    until("a restarted one to have read all", lambda: len(records(a)) == 6)


@test
def s14_9_a_switch_that_is_started_without_the_store_goes_on_with_what_it_knew():
    etcd, fabric = Etcd(everywhere=True), Fabric("192.168.34.0/24")
    h = NvHost(fabric, "192.168.34.8/24", "--policy-store", f"etcd://192.0.2.5:{etcd.port}", name="host1", manage=1)
    until("it to be there", lambda: store(h.switch)["up"])
    h.cli("nv", "network", "add", "blue", "--rdid", BLUE)
    h.cli("nv", "subnet", "add", "--network", "blue", "--vsid", 5001, "--prefix", "10.1.0.0/16", "--gateway", "10.1.255.254")
    macs = {n: f"52:54:00:aa:03:{n:02x}" for n in (1, 2)}
    for n, mac in macs.items():
        h.cli("nv", "record", "add", "--vsid", 5001, "--ca", f"10.1.0.{n}", "--mac", mac, "--pa", h.pa)
    machines = lambda tag: [h.machine(f"{tag}{n}", 5001, f"10.1.0.{n}/16", mac) for n, mac in macs.items()]
    first, _ = machines("m")
    reachable(first, "10.1.0.2")
    must(len(records(h.switch)) == 2 and not store(h.switch)["from_memory"], f"{records(h.switch)}")
    etcd.kill()
    h.switch.close()
    h.switch.start()
    shown = store(h.switch)
    must(not shown["up"] and shown["from_memory"], f"{shown}")
    remembered = next(e for e in events(h.switch) if e["kind"] == "policy-remembered")
    must(remembered["objects"] == 2 and remembered["records"] == 2, f"{remembered}")
    for n in macs:
        h.cli("port", "remove", f"m{n}")
    first, _ = machines("n")
    reachable(first, "10.1.0.2")

    def meanwhile():
        etcd.delete("records/5001/10.1.0.2")
        etcd.put("records/5001/10.1.0.9", {"vsid": 5001, "ca": "10.1.0.9", "mac": "52:54:00:aa:03:09", "pa": h.pa})

    etcd.elsewhere(meanwhile)
    until("the store's own", lambda: set(records(h.switch)) == {"10.1.0.1", "10.1.0.9"} and not store(h.switch)["from_memory"])


@test
def s12_3_an_address_that_one_host_learned_is_reached_from_another():
    etcd, fabric = Etcd(everywhere=True), Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = []
    for number, pa in enumerate(("192.168.34.8/24", "192.168.42.12/24"), 2):
        h = NvHost(fabric, pa, "--policy-store", f"etcd://192.0.2.{4 * number + 1}:{etcd.port}", name=f"host{number}", manage=number)
        until("the store to be there", lambda h=h: store(h.switch)["up"])
        hosts.append(h)
    a, b = hosts
    blue(a.switch)
    macs = [f"52:54:00:aa:04:{n:02x}" for n in (1, 2)]
    a.cli("nv", "record", "add", "--vsid", 5001, "--kind", "l2-only", "--mac", macs[0], "--pa", a.pa)
    b.cli("nv", "record", "add", "--vsid", 5001, "--ca", "10.1.0.9", "--mac", macs[1], "--pa", b.pa)
    guest = a.machine("guest", 5001, "10.1.0.7/16", macs[0])
    other = b.machine("other", 5001, "10.1.0.9/16", macs[1])
    reachable(guest, "10.1.0.9")
    until("the address to be told", lambda: records(b.switch).get("10.1.0.7") == a.pa, 5)
    must(etcd.get("records/5001/10.1.0.7")["kind"] == "dynamic", "by a record of its kind")
    other.run("ip neigh flush all")
    reachable(other, "10.1.0.7")
    must(not any(r.get("kind") == "dynamic" for r in b.cli("nv", "export")["record"]), "nobody configured it")
    a.switch.close()
    until("it to go with its host", lambda: "10.1.0.7" not in records(b.switch), 5)


@test
def s14_9_the_store_is_asked_over_tls_with_certificates_on_both_sides():
    authority = Authority("store")
    etcd = Etcd(authority.sign("etcd", "127.0.0.1"))
    words = dict(zip(*[iter(map(str, authority.sign("a", "127.0.0.1")))] * 2))
    tls = ("--policy-store-ca", words["--ca"], "--policy-store-cert", words["--cert"], "--policy-store-key", words["--key"])
    a = switch(etcd, "a", *tls)
    until("it to be there", lambda: store(a)["up"])
    blue(a)
    must(etcd.get("networks/blue")["rdid"] == BLUE, "and it writes")
    b = switch(etcd, "b", "--policy-store-ca", words["--ca"])
    time.sleep(2)
    must(not store(b)["up"], "a host without a certificate is not let in")


if __name__ == "__main__":
    suite.run()
