package gateway

import (
	"testing"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/verify"
)

// A source's token is a secret wherever its sender puts it, also as one of several ways.
func TestTokensOfSourcesAreHidden(t *testing.T) {
	cfg := &config.Config{Sources: map[string]*config.Source{
		"header":  {Verify: verify.Spec{Scheme: "token", Header: "X-Own"}},
		"query":   {Verify: verify.Spec{Scheme: "token", Location: "query:token"}},
		"param":   {Verify: verify.Spec{Scheme: "token", Location: "query:{config:param}"}, Handshake: map[string][]string{"param": {"own"}}},
		"several": {Verify: verify.Spec{Any: []verify.Spec{{Scheme: "hmac", Header: "X-Signature"}, {Scheme: "token", Header: "X-One"}}, All: []verify.Spec{{Scheme: "token", Location: "query:key"}}}},
	}}
	hide := hidden(cfg)
	for name, want := range map[string]bool{"authorization": true, "x-own": true, "X-One": true, "?token": true, "?key": true, "?own": true, "X-Signature": false, "token": false, "?a": false} {
		if hide(name) != want {
			t.Errorf("%s is hidden: %v", name, !want)
		}
	}
}
