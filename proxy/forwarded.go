package proxy

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hooktender/hooktender/event"
)

// believe takes client address, scheme and host from what a trusted proxy has written. Of X-Forwarded-For it is the last address that
// is no trusted proxy's: what stands before it may have been invented by the client.
func (c *ServerConfig) believe(req *event.Request) {
	var hops [][]byte
	var proto, host []byte
	hosts := 0
	for name, value := range req.Head.All() {
		switch {
		case len(name) < len("X-Forwarded-For") || len(name) > len("X-Forwarded-Proto"):
		case event.EqualFold(name, "X-Forwarded-For"):
			hops = append(hops, value)
		case event.EqualFold(name, "X-Forwarded-Proto"):
			proto = value
		case event.EqualFold(name, "X-Forwarded-Host"):
			host = value
			hosts++
		}
	}
	req.Peer = c.client(req.Peer, hops)
	if i := bytes.LastIndexByte(proto, ','); i >= 0 {
		proto = event.TrimSpace(proto[i+1:])
	}
	switch {
	case event.EqualFold(proto, "https"):
		req.TLS = true
	case event.EqualFold(proto, "http"):
		req.TLS = false
	}
	if hosts == 1 && checkHost(host) == nil {
		req.Host = host
	}
}

// client walks from the nearest hop outwards, as far as hops are trusted and can be read.
func (c *ServerConfig) client(peer netip.Addr, lines [][]byte) netip.Addr {
	for i := len(lines) - 1; i >= 0; i-- {
		line := lines[i]
		for line != nil {
			hop := line
			if at := bytes.LastIndexByte(line, ','); at >= 0 {
				hop, line = line[at+1:], line[:at]
			} else {
				line = nil
			}
			a, ok := parseHop(string(event.TrimSpace(hop)))
			if !ok {
				return peer
			}
			if peer = a; !c.trusts(a) {
				return peer
			}
		}
	}
	return peer
}

// parseHop reads an address, perhaps with a port.
func parseHop(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	ap, err := netip.ParseAddrPort(s)
	return ap.Addr().Unmap().WithZone(""), err == nil
}

// Bounds of a PROXY header.
const (
	maxProxyLine = 107 // version 1, line end included
	maxProxyV2   = 2 << 10
)

const proxyV2 = "\r\n\r\n\x00\r\nQUIT\n"

// parseProxyHeader reads the begin of a connection as a PROXY header, version 1 or 2. size is its length, 0 if more bytes are needed;
// the address is not valid where the proxy speaks for itself.
func parseProxyHeader(b []byte) (client netip.Addr, size int, f *wireFault) {
	switch n := min(len(b), len(proxyV2)); {
	case string(b[:n]) == proxyV2[:n]:
		return parseProxyV2(b)
	case strings.HasPrefix("PROXY ", string(b[:min(len(b), 6)])):
		return parseProxyV1(b)
	}
	return client, 0, faultProxyHeader
}

func parseProxyV1(b []byte) (client netip.Addr, size int, f *wireFault) {
	end := bytes.IndexByte(b[:min(len(b), maxProxyLine)], '\n')
	if end < 0 {
		if len(b) >= maxProxyLine {
			return client, 0, faultProxyHeader
		}
		return client, 0, nil
	}
	line, ok := strings.CutSuffix(string(b[:end+1]), "\r\n")
	parts := strings.Split(line, " ")
	if !ok || len(parts) < 2 {
		return client, 0, faultProxyHeader
	}
	if parts[1] == "UNKNOWN" {
		return client, end + 1, nil
	}
	if len(parts) != 6 || parts[1] != "TCP4" && parts[1] != "TCP6" {
		return client, 0, faultProxyHeader
	}
	from, err := netip.ParseAddr(parts[2])
	to, err2 := netip.ParseAddr(parts[3])
	if err != nil || err2 != nil || from.Zone() != "" || (parts[1] == "TCP4") != from.Is4() || (parts[1] == "TCP4") != to.Is4() || !isPort(parts[4]) || !isPort(parts[5]) {
		return client, 0, faultProxyHeader
	}
	return from.Unmap(), end + 1, nil
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func parseProxyV2(b []byte) (client netip.Addr, size int, f *wireFault) {
	const fixed = len(proxyV2) + 4
	if len(b) < fixed {
		return client, 0, nil
	}
	command, family := b[12], b[13]
	length := int(binary.BigEndian.Uint16(b[14:16]))
	if command>>4 != 2 || command&0xf > 1 || fixed+length > maxProxyV2 {
		return client, 0, faultProxyHeader
	}
	if len(b) < fixed+length {
		return client, 0, nil
	}
	size = fixed + length
	if command&0xf == 0 { // LOCAL: the proxy's own health check
		return client, size, nil
	}
	address := b[fixed:size]
	switch {
	case family == 0x11 && length >= 12:
		client = netip.AddrFrom4([4]byte(address[:4]))
	case family == 0x21 && length >= 36:
		client = netip.AddrFrom16([16]byte(address[:16])).Unmap()
	case family == 0x11 || family == 0x21:
		return client, 0, faultProxyHeader
	}
	return client, size, nil
}
