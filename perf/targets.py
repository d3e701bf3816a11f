"""Programs under test, dnslob and its peers: command lines and the configurations they need."""

import os
import shlex
import subprocess
import sys

LISTEN, DOT_EC, DOT_RSA, BACKEND = 5302, 5303, 5304, 5402
RELAY, RELAYED = 5310, 5410
PEERS = {
    "udp": ["dnslob", "floor", "floor-gso", "dnsdist", "nginx"],
    "tcp": ["dnslob", "dnsdist", "haproxy", "nginx"],
    "dot": ["dnslob", "dnsdist"],
    "relay": ["dnslob", "haproxy", "haproxy-auto", "haproxy-splice", "nginx", "nginx-64k"],
}
ALIASES = {"raw": "floor", "raw-gso": "floor-gso"}
STREAM_OPTIONS = "{maxInFlight=1000, tcpListenQueueSize=4096}"
KEEP_IDLE = "setTCPRecvTimeout(600)"

DNSDIST_RULES = r"""
smn = newSuffixMatchNode()
for i=1,10000 do smn:add(newDNSName("blocked"..i..".example.net")) end
addAction(SuffixMatchNodeRule(smn), DropAction())
addAction(MaxQPSIPRule(100000000, 32, 48), DropAction())
addAction(QTypeRule(DNSQType.ANY), TCAction())
addAction(OpcodeRule(DNSOpcode.Update), RCodeAction(DNSRCode.REFUSED))
addAction(RegexRule("^ads[0-9]+\\.example\\.org"), DropAction())
nmg = newNMG(); nmg:addMask("192.0.2.0/24"); addAction(NetmaskGroupRule(nmg), PoolAction("abuse"))
addAction(QNameRule("health.example."), RCodeAction(0))
addAction(RDRule(), SetTagAction("rd","1"))
"""

LUA_ACTION = """
local suffix = newDNSName("example.")
addAction(AllRule(), LuaAction(function(dq)
  if dq.qname:isPartOf(suffix) then dq:setTag("zone", "example") end
  return DNSAction.None, ""
end))
"""

LUA_FFI = """
local C = require("ffi").C
addAction(AllRule(), LuaFFIAction(function(dq)
  if C.dnsdist_ffi_dnsquestion_get_qtype(dq) == DNSQType.A then
    C.dnsdist_ffi_dnsquestion_set_tag(dq, "zone", "example")
  end
  return DNSAction.None
end))
"""

# What a target's name may have behind "dnslob-" and "dnsdist-", and what that adds to its configuration.
CACHE = "\ngetPool(''):setCache(newPacketCache(2000000))"
ADDED = {"": "", "cache": CACHE, "cache-unwatched": CACHE + "\nsetRingBuffersSize(0)", "unwatched": "\nsetRingBuffersSize(0)", "rules": DNSDIST_RULES, "luaaction": LUA_ACTION, "luaffi": LUA_FFI}

NGINX = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx-error.log crit;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {{ worker_connections 9000; }}
stream {{
  upstream backends {{ {servers} }}
  proxy_timeout {timeout}s; {options}
  ssl_protocols TLSv1.2 TLSv1.3;
  {listeners}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 4000
  stats socket {work}/haproxy.sock
defaults
  mode tcp
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  {options}
listen relay
  {listeners}
  balance leastconn
  {servers}
"""


def with_file(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def make_certificates(work):
    """Self-signed certificates ec.pem and rsa.pem (P-256, RSA-2048), their keys, and both together for haproxy."""
    kinds = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}
    for name, kind in kinds.items():
        certificate, key = (os.path.join(work, f"{name}.{end}") for end in ("pem", "key"))
        subprocess.run(["openssl", "req", "-x509", "-nodes", "-newkey", *kind, "-keyout", key, "-out", certificate,
                        "-days", "30", "-subj", "/CN=dot.bench.example", "-addext",
                        "subjectAltName=DNS:dot.bench.example"], check=True, capture_output=True)
        both = "".join(open(path, encoding="ascii").read() for path in (certificate, key))
        with_file(os.path.join(work, f"{name}-both.pem"), both)


class Targets:
    """Command lines for one kind of work.

    `carrier` is udp, tcp or dot, for a balancer before `backends` reflecting backends; or relay, for
    one that carries bytes from port RELAY to port RELAYED. With `beside_tcp`, udp keeps idle connections, too.
    """

    def __init__(self, work, backends, binary, carrier="udp", beside_tcp=False):
        self.work, self.backends, self.binary, self.carrier = work, backends, binary, carrier
        self.keep_idle = carrier in ("tcp", "dot") or beside_tcp
        if carrier == "dot":
            make_certificates(work)

    def command(self, name):
        """Gives argv; `name` is a built-in target or NAME=COMMAND."""
        if "=" in name:
            return shlex.split(name.split("=", 1)[1])
        name = ALIASES.get(name, name)
        if name in ("floor", "floor-gso") and self.carrier == "udp":
            floor = [os.path.join(self.work, "floor"), "-l", str(LISTEN), "-u", str(BACKEND), "-n", str(self.backends)]
            return floor + ["-g"] * (name == "floor-gso")
        if name == "echo" and self.carrier == "udp":
            return [os.path.join(self.work, "floor"), "-l", str(LISTEN), "-u", str(BACKEND), "-e"]
        program, _, added = name.partition("-")
        if program == "dnsdist" and added in ADDED and self.carrier != "relay":
            return ["dnsdist", "--supervised", "--disable-syslog", "-C", self.dnsdist(added)]
        if name == "nginx" or (name, self.carrier) == ("nginx-64k", "relay"):
            return ["nginx", "-c", self.nginx(name), "-p", self.work]
        if name == "haproxy" or (name, self.carrier) in (("haproxy-auto", "relay"), ("haproxy-splice", "relay")):
            if self.carrier != "udp":
                return ["haproxy", "-db", "-f", self.haproxy(name)]
        if program == "dnslob" and added in ADDED:
            return [self.binary, "--shards", "1", "-C", self.dnslob(added)]
        if name == "dnslob-default":
            return [self.binary, "-C", self.dnslob()]
        sys.exit(f"no such target for {self.carrier}: {name}")

    def ports(self):
        """Where the backends listen."""
        return [RELAYED] if self.carrier == "relay" else list(range(BACKEND, BACKEND + self.backends))

    def listens(self):
        """Where clients connect."""
        return {"dot": [DOT_EC, DOT_RSA], "relay": [RELAY]}.get(self.carrier, [LISTEN])

    def write(self, name, text):
        return with_file(os.path.join(self.work, name), text)

    def certificate(self, port):
        name = "ec" if port == DOT_EC else "rsa"
        return os.path.join(self.work, f"{name}.pem"), os.path.join(self.work, f"{name}.key")

    def dot_listeners(self):
        """addTLSLocal, which dnsdist and dnslob understand alike."""
        return [f'addTLSLocal("127.0.0.1:{port}", "{certificate}", "{key}", {STREAM_OPTIONS})'
                for port in self.listens() for certificate, key in [self.certificate(port)]]

    def dnslob(self, added="", probe=False):
        mode = "" if probe else ', healthCheckMode="up"'
        stream = {"udp": "", "tcp": ", maxInFlight=1000", "dot": ", tcpOnly=true, maxInFlight=1000"}
        if self.carrier == "relay":
            lines = [f'addTCPForward {{listen="127.0.0.1:{RELAY}", to={{"127.0.0.1:{RELAYED}"}}}}']
        else:
            options = f", {STREAM_OPTIONS}" if self.carrier == "tcp" else ""
            lines = [f'setLocal("127.0.0.1:{LISTEN}"{options})']
            lines += [f'newServer {{address="127.0.0.1:{port}"{stream[self.carrier]}{mode}}}' for port in self.ports()]
        if self.carrier == "dot":
            lines += self.dot_listeners()
        if self.keep_idle:
            lines += [KEEP_IDLE]
        name = f"dnslob-{self.carrier}-{self.backends}{added and '-' + added}.lua"
        return self.write(name, "\n".join(lines) + ADDED[added] + "\n")

    def dnsdist(self, added="", probe=False):
        stream = f", {STREAM_OPTIONS}" if self.carrier == "tcp" else ""
        server = {"udp": "", "tcp": ", maxInFlight=1000", "dot": ", tcpOnly=true, maxInFlight=1000"}[self.carrier]
        lines = ['setSecurityPollSuffix("")', "setMaxUDPOutstanding(65535)", "setUDPMultipleMessagesVectorSize(8)",
                 "setMaxTCPClientThreads(1)", f'addLocal("127.0.0.1:{LISTEN}"{stream})',
                 "if setRingBuffersOptions then "
                 "setRingBuffersOptions({recordQueries=false, recordResponses=false}) end"]
        if self.carrier == "dot":
            lines += self.dot_listeners()
        if self.keep_idle:
            lines += [KEEP_IDLE]
        force = "" if probe else ":setUp()"
        lines += [f"newServer({{address='127.0.0.1:{port}'{server}}}){force}" for port in self.ports()]
        lines += ["setServerPolicy(leastOutstanding)"]
        name = f"dnsdist-{self.carrier}-{self.backends}{added and '-' + added}.conf"
        return self.write(name, "\n".join(lines) + ADDED[added] + "\n")

    def nginx(self, name):
        options = {port: " udp" if self.carrier == "udp" else " backlog=4096" for port in self.listens()}
        if self.carrier == "dot":
            for port in options:
                options[port] += " ssl; ssl_certificate {}; ssl_certificate_key {}".format(*self.certificate(port))
        listeners = "\n  ".join(f"server {{ listen 127.0.0.1:{port}{more}; proxy_pass backends; }}"
                                for port, more in options.items())
        servers = " ".join(f"server 127.0.0.1:{port};" for port in self.ports())
        return self.write(f"{name}-{self.carrier}.conf", NGINX.format(
            work=self.work, servers=servers, listeners=listeners, timeout=10 if self.carrier == "udp" else 600,
            options="proxy_buffer_size 64k;" if name == "nginx-64k" else ""))

    def haproxy(self, name):
        options = {"haproxy-auto": "option splice-auto",
                   "haproxy-splice": "option splice-request\n  option splice-response"}.get(name, "")
        tls = {DOT_EC: f" ssl crt {self.work}/ec-both.pem", DOT_RSA: f" ssl crt {self.work}/rsa-both.pem"}
        return self.write(f"{name}-{self.carrier}.cfg", HAPROXY.format(
            work=self.work, options=options,
            listeners="\n  ".join(f"bind 127.0.0.1:{port} backlog 4096{tls.get(port, '')}" for port in self.listens()),
            servers="\n  ".join(f"server s{port} 127.0.0.1:{port}" for port in self.ports())))
