//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// holeBar is how much longer the others' p99 may be while one resource is a black hole.
const holeBar = 0.10

// holeEvents wait in the lane of the resource that is a black hole.
const holeEvents = 20

// runHole measures the latency of events in lanes while one resource is a black hole: its requests are read and never answered. Of three gateways alike one
// has the hole; of the other two one is what it is compared with, and their ratio, which ought to be 1, says what this machine can tell at all. All three are under
// load at the same time, a third of the rate each: what disturbs one disturbs the others.
func runHole(ctx context.Context, b *bench) error {
	w := b.work(work{rate: b.o.rate / 3, resources: 1000})
	title := fmt.Sprintf("one resource of %d a black hole, %.0f requests/s by the clock to each of three, policy serial", w.resources, w.rate)
	fmt.Fprintf(os.Stderr, "%s\n", title)
	subjects := make([]*subject, 3)
	for i, name := range []string{"without", "without again", "black hole"} {
		t, err := b.startGateway(b.o.binary, name, filepath.Join(b.dir, "hole-"+strconv.Itoa(i)), "hybrid", "always")
		if err != nil {
			return err
		}
		defer b.end(t.cmd)
		t.path = "/lanes"
		subjects[i] = &subject{target: t, name: name, work: w}
	}
	if err := b.dig(ctx, subjects[2].target); err != nil {
		return err
	}
	if err := b.together(ctx, subjects); err != nil {
		return err
	}
	if err := table(os.Stdout, title, subjects); err != nil {
		return err
	}
	return judgeHole(of(subjects[0], p99), of(subjects[1], p99), of(subjects[2], p99))
}

// judgeHole compares paired rounds. What the two without a hole differ by in the middle, or leave open (a notch of McGill, Tukey and Larsen, 1978: 1.57 interquartile
// ranges over the root of the number), is the machine's doing: where that is over the bar, nothing can be said.
func judgeHole(without, again, hole []float64) error {
	ratios, control := make([]float64, len(hole)), make([]float64, len(hole))
	for i := range hole {
		ratios[i] = hole[i] / math.Sqrt(without[i]*again[i])
		control[i] = again[i] / without[i]
	}
	got, same := median(ratios), median(control)
	notch := 1.57 * (quantile(control, 0.75) - quantile(control, 0.25)) / math.Sqrt(float64(len(control)))
	fmt.Printf("p99 beside a black hole × %.3f of without it; without against without × %.3f ± %.3f, %d rounds\n", got, same, notch, len(hole))
	switch {
	case math.Abs(same-1) > holeBar || notch > holeBar:
		return fmt.Errorf("%w: two gateways without a black hole differ as much: more rounds (-rounds), longer ones (-seconds), or a quieter machine", errNoisy)
	case got > 1+holeBar:
		return fmt.Errorf("%w: p99 of the others × %.3f while one resource is a black hole, not ≤ %.2f", errBar, got, 1+holeBar)
	}
	return nil
}

func quantile(xs []float64, q float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	return xs[int(q*float64(len(xs)-1)+0.5)]
}

// dig sends the events of the black hole, whose senders wait as long as the gateway lets them, and returns once the first is on its way.
func (b *bench) dig(ctx context.Context, t *target) error {
	failed := make(chan error, holeEvents)
	for i := range holeEvents {
		go func() {
			if err := b.post(ctx, t, fmt.Appendf(nil, `{"resource":"hole","id":"evt_%s%03d"}`, holeMark, i)); err != nil {
				failed <- err
			}
		}()
	}
	for range 500 {
		select {
		case err := <-failed:
			return err
		case <-time.After(10 * time.Millisecond):
		}
		if st, err := b.sinkStats(); err != nil || st.Holes > 0 {
			return err
		}
	}
	return fmt.Errorf("the black hole's first request did not arrive")
}

// post sends one signed event and wants a 2xx.
func (b *bench) post(ctx context.Context, t *target, body []byte) error {
	ts := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s.%s", ts, body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.addr+t.path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Timestamp", ts)
	req.Header.Set("X-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("an event of the black hole is answered %s", resp.Status)
	}
	return nil
}
