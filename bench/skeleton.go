//go:build linux

package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/valyala/fasthttp"
)

// startSkeleton starts the least that makes an event authentic, once and durable: the plain proxy, an HMAC, an id in a cache, and the request in a
// log that is synced before it is forwarded, with all that wait at that time (skeleton-nosync does not wait for the disk). No index, no order, no
// retry, no restart: what it costs is what hooktender cannot go below while it is built on the same server and client.
func startSkeleton(role string) func(p *processes, self, addr, sink string) (*exec.Cmd, error) {
	return func(p *processes, self, addr, sink string) (*exec.Cmd, error) {
		return p.start(addr, nil, self, "-role", role, "-listen", addr, "-upstream", sink, "-dir", p.dir)
	}
}

func runSkeleton(addr, upstream, dir string, sync bool) error {
	log, err := newSkeletonLog(dir, sync)
	if err != nil {
		return err
	}
	var seen [64]*lru.Cache[[16]byte, struct{}]
	for i := range seen {
		if seen[i], err = lru.New[[16]byte, struct{}](2048); err != nil {
			return err
		}
	}
	client := newPlainClient(upstream)
	return newPlainServer(func(ctx *fasthttp.RequestCtx) {
		body := ctx.Request.Body()
		i := bytes.LastIndex(body, []byte(`"id":"`)) // where this bench has it
		if i < 0 || !skeletonVerify(ctx.Request.Header.Peek("X-Timestamp"), body, ctx.Request.Header.Peek("X-Signature")) {
			ctx.Error("forged", fasthttp.StatusUnauthorized)
			return
		}
		key := sha256.Sum256(body[i:])
		if known, _ := seen[key[0]&63].ContainsOrAdd([16]byte(key[:]), struct{}{}); known {
			return
		}
		<-log.add(ctx.Request.Header.RawHeaders(), body)
		forwardPlain(client, ctx)
		log.add(key[:16], nil) // that it was delivered; nobody waits for it
	}).ListenAndServe(addr)
}

var skeletonMACs = sync.Pool{New: func() any { return hmac.New(sha256.New, []byte(secret)) }}

func skeletonVerify(timestamp, body, signature []byte) bool {
	mac := skeletonMACs.Get().(hash.Hash)
	defer skeletonMACs.Put(mac)
	mac.Reset()
	mac.Write(timestamp)
	mac.Write([]byte("."))
	mac.Write(body)
	var want, got [sha256.Size]byte
	mac.Sum(want[:0])
	hexed, _ := bytes.CutPrefix(signature, []byte("sha256="))
	n, err := hex.Decode(got[:], hexed[:min(len(hexed), 2*len(got))])
	return err == nil && n == len(got) && hmac.Equal(got[:], want[:])
}

// A skeletonLog writes records that come at the same time with one write and one fsync. Its file was filled with zeros and is used anew when it
// is full, so that an fsync is as cheap as it can be.
type skeletonLog struct {
	file *os.File
	sync bool
	wake chan struct{} // capacity 1: something is in next

	mu   sync.Mutex
	next []byte
	done chan struct{} // closed once next is on disk
}

const skeletonLogSize = 64 << 20

func newSkeletonLog(dir string, sync bool) (*skeletonLog, error) {
	f, err := os.CreateTemp(dir, "skeleton")
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, skeletonLogSize)); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	l := &skeletonLog{file: f, sync: sync, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go l.write()
	return l, nil
}

// add puts a record into the next group and says when that is written.
func (l *skeletonLog) add(head, body []byte) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	begin := len(l.next)
	l.next = append(l.next, 0, 0, 0, 0)
	l.next = append(l.next, head...)
	l.next = append(l.next, body...)
	binary.LittleEndian.PutUint32(l.next[begin:], crc32.Checksum(l.next[begin+4:], castagnoli))
	if body != nil {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return l.done
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (l *skeletonLog) write() {
	var group []byte
	var at int64
	for range l.wake {
		l.mu.Lock()
		done := l.done
		group, l.next = l.next, group[:0]
		l.done = make(chan struct{})
		l.mu.Unlock()
		if at+int64(len(group)) > skeletonLogSize {
			at = 0
		}
		_, err := l.file.WriteAt(group, at)
		if err == nil && l.sync {
			err = syscall.Fdatasync(int(l.file.Fd()))
		}
		if err != nil {
			panic(err)
		}
		at += int64(len(group))
		close(done)
	}
}
