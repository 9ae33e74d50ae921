package proxy

import (
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/event"
)

// What a trusted proxy says is believed; what stands before its word may be the client's invention.
func TestClientBehindProxies(t *testing.T) {
	trusted, err := ParsePrefixes([]string{"10.0.0.0/8", "fd00::/8", "192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ServerConfig{Trusted: trusted}
	for _, c := range []struct {
		head, peer string
		tls        bool
		host       string
	}{
		{"", "10.1.1.1", false, "h"},
		{"X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9", false, "h"},
		{"x-forwarded-for: 203.0.113.9 , 10.2.2.2\r\n", "203.0.113.9", false, "h"},
		{"X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n", "203.0.113.9", false, "h"},
		{"X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.9, 10.9.9.9\r\n", "203.0.113.9", false, "h"},
		{"X-Forwarded-For: 10.2.2.2, 192.0.2.7\r\n", "10.2.2.2", false, "h"},
		{"X-Forwarded-For: 203.0.113.9, unknown, 10.2.2.2\r\n", "10.2.2.2", false, "h"},
		{"X-Forwarded-For: unknown\r\n", "10.1.1.1", false, "h"},
		{"X-Forwarded-For:\r\n", "10.1.1.1", false, "h"},
		{"X-Forwarded-For: 203.0.113.9,\r\n", "10.1.1.1", false, "h"},
		{"X-Forwarded-For: 203.0.113.9:4711\r\n", "203.0.113.9", false, "h"},
		{"X-Forwarded-For: [2001:db8::1]:4711\r\n", "2001:db8::1", false, "h"},
		{"X-Forwarded-For: 2001:db8::1, fd00::1\r\n", "2001:db8::1", false, "h"},
		{"X-Forwarded-For: ::ffff:203.0.113.9\r\n", "203.0.113.9", false, "h"},
		{"X-Forwarded-For: fe80::1%eth0\r\n", "fe80::1", false, "h"},
		{"X-Forwarded-Proto: https\r\n", "10.1.1.1", true, "h"},
		{"X-Forwarded-Proto: https, http\r\n", "10.1.1.1", false, "h"},
		{"X-Forwarded-Proto: http, https\r\n", "10.1.1.1", true, "h"},
		{"X-Forwarded-Port: 443\r\n", "10.1.1.1", false, "h"},
		{"X-Forwarded-Proto: ftp\r\n", "10.1.1.1", false, "h"},
		{"X-Forwarded-Host: hooks.example.com\r\n", "10.1.1.1", false, "hooks.example.com"},
		{"X-Forwarded-Host: a@b\r\n", "10.1.1.1", false, "h"},
		{"X-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n", "10.1.1.1", false, "h"},
	} {
		req := event.Request{Head: event.Head(c.head), Host: []byte("h"), Peer: netip.MustParseAddr("10.1.1.1")}
		cfg.believe(&req)
		if req.Peer.String() != c.peer || req.TLS != c.tls || string(req.Host) != c.host {
			t.Errorf("%q: %s TLS %v host %s, want %s %v %s", c.head, req.Peer, req.TLS, req.Host, c.peer, c.tls, c.host)
		}
	}
}

// The addresses of clients are compared as IPv4 where they are, however an operator writes them.
func TestAddressesMayBeWrittenAsMappedIPv6(t *testing.T) {
	for text, want := range map[string]string{
		"::ffff:192.0.2.7": "192.0.2.7/32", "::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:192.0.2.7/128": "192.0.2.7/32",
		"10.1.2.3/8": "10.0.0.0/8", "::/0": "::/0", "2001:db8::1": "2001:db8::1/128",
	} {
		if got, err := ParsePrefixes([]string{text}); err != nil || got[0].String() != want {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
}

func v2(command, family byte, address []byte) string {
	b := append([]byte(proxyV2), command, family)
	return string(append(binary.BigEndian.AppendUint16(b, uint16(len(address))), address...))
}

// A neighbour's address comes with the interface that it is reached by, which no list can name.
func TestLinkLocalClientsAreOnTheLists(t *testing.T) {
	list, err := ParsePrefixes([]string{"fe80::/10"})
	if err != nil {
		t.Fatal(err)
	}
	from := &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}
	c := NewServer(ServerConfig{Trusted: list}, nil, slog.New(slog.DiscardHandler)).admit(remote{addr: from})
	if s := (&Source{prefixes: list}); !c.trusted || !s.allows(c.peer) {
		t.Errorf("%s: trusted %v, allowed %v", c.peer, c.trusted, s.allows(c.peer))
	}
}

// remote is a connection of which only the other end's address is asked for.
type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }

func TestProxyHeader(t *testing.T) {
	v4 := []byte{203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80}
	v6 := make([]byte, 36)
	copy(v6, netip.MustParseAddr("2001:db8::1").AsSlice())
	for _, c := range []struct {
		in, peer string
		ok       bool
	}{
		{"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n", "203.0.113.9", true},
		{"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n", "2001:db8::1", true},
		{"PROXY UNKNOWN\r\n", "", true},
		{"PROXY UNKNOWN ::1 ::1 1 2\r\n", "", true},
		{"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\n", "", false},
		{"PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n", "", false},
		{"PROXY TCP4 2001:db8::1 ::1 4711 80\r\n", "", false},
		{"PROXY TCP6 203.0.113.9 10.0.0.1 4711 80\r\n", "", false},
		{"PROXY TCP4 203.0.113.9 10.0.0.1 70000 80\r\n", "", false},
		{"PROXY TCP4 203.0.113.9 10.0.0.1 +1 80\r\n", "", false},
		{"PROXY TCP5 203.0.113.9 10.0.0.1 1 80\r\n", "", false},
		{"PROXY TCP6 localhost ::1 4711 80\r\n", "", false},
		{"PROXY TCP6 2001:db8::1 localhost 4711 80\r\n", "", false},
		{"PROXY TCP6 fe80::1%eth0 ::1 4711 80\r\n", "", false},
		{"PROXY UNKNOWN " + strings.Repeat("x", 93) + "\r\n", "", false},
		{"PROXY \r\n", "", false},
		{"proxy TCP4 203.0.113.9 10.0.0.1 4711 80\r\n", "", false},
		{"POST / HTTP/1.1\r\n", "", false},
		{v2(0x21, 0x11, v4), "203.0.113.9", true},
		{v2(0x21, 0x21, v6), "2001:db8::1", true},
		{v2(0x21, 0x11, append(v4, 3, 0, 4, 1, 2, 3, 4)), "203.0.113.9", true}, // with a TLV
		{v2(0x20, 0, nil), "", true},
		{v2(0x21, 0x31, make([]byte, 216)), "", true}, // a Unix socket has no address
		{v2(0x21, 0x11, v4[:8]), "", false},
		{v2(0x22, 0x11, v4), "", false},
		{v2(0x11, 0x11, v4), "", false},
		{v2(0x21, 0x11, make([]byte, 4000)), "", false},
	} {
		for at := range len(c.in) { // whatever has come so far is waited for, or refused
			if _, size, f := parseProxyHeader([]byte(c.in[:at])); f == nil && size > 0 {
				t.Errorf("%q: complete after %d bytes", c.in, at)
			} else if f != nil && c.ok {
				t.Errorf("%q: refused after %d bytes", c.in, at)
			}
		}
		a, size, f := parseProxyHeader([]byte(c.in + "POST "))
		if (f == nil) != c.ok || c.ok && size != len(c.in) || a.IsValid() != (c.peer != "") || c.peer != "" && a.String() != c.peer {
			t.Errorf("%q: %s %d %v", c.in, a, size, f)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\nPOST"))
	f.Add([]byte(v2(0x21, 0x11, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, size, fault := parseProxyHeader(b)
		if size < 0 || size > len(b) || size > maxProxyV2 || fault != nil && size != 0 {
			t.Fatal(size, fault)
		}
		if size > 0 {
			if _, again, _ := parseProxyHeader(b[:size]); again != size {
				t.Fatal("needs what comes after it")
			}
		}
	})
}

func TestDescriptors(t *testing.T) {
	for limit, want := range map[uint64][3]int{20: {10, 11, 13}, 100: {52, 60, 68}, 256: {192, 202, 213}, 1024: {768, 810, 853}, 20000: {18976, 19146, 19317}, 1 << 62: {1<<30 - 1024, 1<<30 - 854, 1<<30 - 683}} {
		if public, admin, upstream := Descriptors(limit); want != [...]int{public, admin, upstream} {
			t.Errorf("%d descriptors: %d, %d, %d, want %d", limit, public, admin, upstream, want)
		}
	}
}
