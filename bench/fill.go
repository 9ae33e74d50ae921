//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/journal/embedded"
)

// fill writes n events into a new journal, as hooktender would have: delivered ones whose payload is past its retention, or, if pending, ones that
// wait for the source backlog's consumer.
func fill(ctx context.Context, dir string, n int, pending bool) (err error) {
	began := time.Now()
	e, err := embedded.Open(embedded.Options{Dir: dir, Sync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("fill a journal: %w", err)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(context.WithoutCancel(ctx)) })
	defer func() { err = errors.Join(err, e.Close()); running.Wait() }()
	const batch, writers = 500, 4
	var work sync.WaitGroup
	faults := make([]error, writers)
	for w := range writers {
		work.Go(func() {
			for at := w * batch; at < n && faults[w] == nil; at += writers * batch {
				evs := make([]journal.Accept, min(batch, n-at))
				for i := range evs {
					evs[i] = stored(at+i, pending)
				}
				_, faults[w] = e.Accept(ctx, evs, journal.Written)
			}
		})
	}
	work.Wait()
	fmt.Fprintf(os.Stderr, "%d events written in %.1f s\n", n, time.Since(began).Seconds())
	return errors.Join(faults...)
}

// stored is event i of a filled journal.
func stored(i int, pending bool) journal.Accept {
	now := time.Now()
	id := fmt.Sprintf("old_%012d", i)
	a := journal.Accept{Record: event.Record{Source: "bench", Provider: "custom", EventID: id, Type: "invoice.paid", Resource: "old_in_" + id, Verified: true,
		ReceivedAt: now, SignedAt: now, BodyBytes: 1024, BodySHA256: sha256.Sum256([]byte(id))}}
	r := &a.Record
	if pending {
		body := filling(1024-len(id)) + `"id":"` + id + `"}`
		r.Source, r.State, r.Reason, r.HasPayload = "backlog", event.Pending, event.Queued, true
		r.BodyBytes, r.BodySHA256 = len(body), sha256.Sum256([]byte(body))
		a.Payload = &event.Payload{Method: "POST", Target: []byte("/backlog"), Host: []byte("hooks.example.com"),
			Head: event.Head("Content-Type: application/json\r\n"), Body: []byte(body), Peer: "127.0.0.1"}
	} else {
		r.State, r.DeliveredAt, r.SettledAt, r.Attempts, r.LastAttemptAt, r.LastStatus = event.Delivered, now, now, 1, now, 200
		r.LastTrigger = event.TriggerInitial
	}
	a.Keys = []event.Key{event.MakeKey(event.KeyEvent, r.Source, "", id)}
	return a
}
