//go:build !linux

package proxy

import "net"

// quiet is for Linux only: elsewhere a connection that comes at the very moment of the listener's end may be reset.
func quiet(net.Listener) {}
