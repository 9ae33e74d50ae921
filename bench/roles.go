package main

import (
	"encoding/json"
	"hash/maphash"
	"sync"

	"github.com/valyala/fasthttp"
)

// sinkStats is what the sink has seen.
type sinkStats struct{ Total, Unique, Repeats int64 }

// runSink is the consumer: it counts ids and answers 200.
func runSink(addr string) error {
	var mu sync.Mutex
	seen, seed := map[uint64]struct{}{}, maphash.MakeSeed()
	var st sinkStats
	srv := &fasthttp.Server{NoDefaultServerHeader: true, Handler: func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Path()) == "/stats" {
			mu.Lock()
			raw, _ := json.Marshal(st)
			mu.Unlock()
			ctx.SetBody(raw)
			return
		}
		h := maphash.Bytes(seed, ctx.Request.Header.Peek("X-Event-Id"))
		mu.Lock()
		st.Total++
		if _, again := seen[h]; again {
			st.Repeats++
		} else {
			seen[h] = struct{}{}
			st.Unique++
		}
		mu.Unlock()
		ctx.SetBodyString("ok")
	}}
	return srv.ListenAndServe(addr)
}

// runProxy is the plain proxy: fasthttp in, fasthttp out, nothing between.
func runProxy(addr, upstream string) error {
	client := &fasthttp.HostClient{Addr: upstream, MaxConns: 256, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true}
	srv := &fasthttp.Server{NoDefaultServerHeader: true, DisablePreParseMultipartForm: true, Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.Request.Header.Del("Connection")
		if err := client.Do(&ctx.Request, &ctx.Response); err != nil {
			ctx.Error("bad gateway", fasthttp.StatusBadGateway)
			return
		}
		ctx.Response.Header.Del("Connection")
	}}
	return srv.ListenAndServe(addr)
}
