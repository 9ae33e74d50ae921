package config

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// source is a complete custom source called s at line 3, without upstream; extra lines follow.
const source = `version: 1
sources:
  s:
    path: /s
    provider: custom
    secrets: [{env: ORDERS_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Sig, signed: "{body}"}
    identity: {id: header:X-Id}
`

func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       []string // file:line:col: key: message, then the hint after " // "
	}{
		{"an empty file", "", []string{`f.yaml: is empty: it holds no YAML document`}},
		{"comments only", "# nothing\n", []string{`f.yaml: is empty: it holds no YAML document`}},
		{"a document without anything in it", "---\n# nothing\n", []string{`f.yaml: is empty: it holds no YAML document`}},
		{"null", "~\n", []string{`f.yaml: is empty: it holds no YAML document`}},
		{"a null with an anchor", "&a !!null\n", []string{`f.yaml: is empty: it holds no YAML document`}},
		{"two documents", "a: 1\n---\nb: 2\n", []string{`f.yaml:2:1: must hold one YAML document, not several`}},
		{"two documents, the first begun by a marker", "# first\n---\na: |\n  ---\n--- {b: 2}\n", []string{`f.yaml:5:1: must hold one YAML document, not several`}},
		{"two documents, the first ended by a marker", "a: 1\n...\nb: 2\n", []string{`f.yaml:2:1: must hold one YAML document, not several`}},
		{"a list", "- a\n", []string{`f.yaml:1:1: must be a mapping (key: value)`}},
		{"broken syntax", "version: 1\nlisten: [a\nsources: {}\n", []string{`f.yaml:3:8: is no YAML: did not find expected ',' or ']'`}},
		{"an unknown top-level key", source + "    upstream: http://a\nlistn: \":1\"\n", []string{`f.yaml:10:1: listn: unknown key // did you mean "listen"?`}},
		{"an unknown key of a source", source + "    upstrem: http://a\n    upstream: http://a\n", []string{`f.yaml:9:5: sources.s.upstrem: unknown key // did you mean "upstream"?`}},
		{"an unknown key of a handshake", source + "    upstream: http://a\n    handshake: {verify_tokn: {env: ORDERS_SECRET}}\n", []string{`f.yaml:10:17: sources.s.handshake.verify_tokn: unknown key // did you mean "verify_token"?`}},
		{"a key one block too far out", source + "    upstream: http://a\n    retry: {base: 1s}\n", []string{`f.yaml:10:5: sources.s.retry: unknown key // did you mean "retry" inside of delivery?`}},
		{"a key two blocks too far out", source + "    upstream: http://a\n    max_attempts: 3\n", []string{`f.yaml:10:5: sources.s.max_attempts: unknown key // did you mean "max_attempts" inside of delivery.retry?`}},
		{"a key that several blocks have", source + "    upstream: http://a\n    mode: proxy\n", []string{`f.yaml:10:5: sources.s.mode: unknown key // did you mean "mode" inside of verify or dedup or ordering or delivery?`}},
		{"a key too far out that is half like another", source + "    upstream: http://a\n    rate: 5\n", []string{`f.yaml:10:5: sources.s.rate: unknown key // did you mean "rate" inside of limits?`}},
		{"on, which is no off", source + "    delivery: {upstream: \"http://a\", resign: on}\n", []string{`f.yaml:9:46: sources.s.delivery.resign: must be one of auto, off`}},
		{"a misspelled algorithm", strings.Replace(source, "sha256", "sha265", 1) + "    upstream: http://a\n", []string{`f.yaml:7:39: sources.s.verify.algorithm: "sha265" is not one of md5, sha1, sha256, sha384, sha512 // did you mean "sha256"?`}},
		{"a key twice", source + "    upstream: http://a\n    path: /t\n", []string{`f.yaml:10:5: sources.s.path: is given twice, first on line 4`}},
		{"a source twice", source + "    upstream: http://a\n  s: {}\n", []string{`f.yaml:10:3: sources.s: is given twice, first on line 3`}},
		{"days", source + "    upstream: http://a\nretention: {dedup: 7d}\n", []string{`f.yaml:10:20: retention.dedup: must be a duration such as 500ms, 5m or 168h // did you mean 168h?`}},
		{"a duration without unit", source + "    upstream: http://a\nretention:\n  dedup: 30\n", []string{`f.yaml:11:10: retention.dedup: must be a duration such as 500ms, 5m or 168h // did you mean 30s?`}},
		{"no size", source + "    upstream: http://a\n    limits: {body: 5 megs}\n", []string{`f.yaml:10:20: sources.s.limits.body: must be a size such as 64KiB, 5MiB or a number of bytes`}},
		{"yes", source + "    upstream: http://a\n    insecure: no\n", []string{`f.yaml:10:15: sources.s.insecure: must be true or false // did you mean false?`}},
		{"a quoted number", source + "    upstream: http://a\ndedup: {cache: \"10\"}\n", []string{`f.yaml:10:16: dedup.cache: must be a whole number // write it without quotes`}},
		{"octal", source + "    upstream: http://a\ndedup: {cache: 010}\n", []string{`f.yaml:10:16: dedup.cache: must be a whole number`}},
		{"a list for a text", source + "    upstream: [http://a]\n", []string{`f.yaml:9:15: sources.s.upstream: must be text, not a list or mapping`}},
		{"a text for a list", source + "    upstream: http://a\n    methods: POST\n", []string{`f.yaml:10:14: sources.s.methods: must be a list: [a, b]`}},
		{"a text for the delivery that may have named the upstream", source + "    delivery: hybrid\n", []string{`f.yaml:9:15: sources.s.delivery: must be a mapping (key: value)`}},
		{"a text for the upstreams of which one is named", source + "    upstream: app\nupstreams: app\n", []string{`f.yaml:10:12: upstreams: must be a mapping (name: …)`}},
		{"a header that can have no such name", strings.Replace(source, "header: X-Sig", "header: X Sig", 1) + "    upstream: http://a\n", []string{`f.yaml:7:70: sources.s.verify.header: not a selector: "X Sig" is not a header name`}},
		{"a text for a block", source + "    upstream: http://a\n    limits: 5MiB\n", []string{`f.yaml:10:13: sources.s.limits: must be a mapping (key: value)`}},
		{"a key without value", source + "    upstream: http://a\nlisten:\n", []string{`f.yaml:10:8: listen: has no value // leave the key out for its default`}},
		{"a value outside of its list", source + "    upstream: http://a\njournal: {sync: allways}\n", []string{`f.yaml:10:17: journal.sync: must be one of always, none // did you mean "always"?`}},
		{"a fault that a room finds", source + "    upstream: http://a\njournal: {memory: 8MiB}\n", []string{`f.yaml:10:19: journal.memory: must be at least 16MiB`}},
		{"a fault that a room finds, two blocks in", source + "    upstream: http://a\n    delivery: {retry: {base: 0s}}\n", []string{`f.yaml:10:30: sources.s.delivery.retry.base: must be between 1ms and 24h`}},
		{"a secret that is not there hides nothing else", strings.NewReplacer("ORDERS_SECRET", "NOT_THERE", "{body}", "{timestamp}.{body}").Replace(source) + "    upstream: http://a\n",
			[]string{`f.yaml:6:21: sources.s.secrets[0]: the environment variable NOT_THERE is not set`, `f.yaml:7:5: sources.s.verify.timestamp: signed has {timestamp}, but nothing says where it is`}},
		{"a certificate that nobody asks for", strings.Replace(source, "{scheme: hmac, algorithm: sha256, encoding: hex, header: X-Sig, signed: \"{body}\"}", "{scheme: client_certificate, location: connection, names: [a.example]}", 1) + "    upstream: http://a\n",
			[]string{`f.yaml:7:5: sources.s.verify: nobody asks senders for a certificate: tls.client_ca is needed // set tls.client_ca at the top of the file, or take the certificate from a header`}},
		{"keys over http", strings.Replace(source, "{scheme: hmac, algorithm: sha256, encoding: hex, header: X-Sig, signed: \"{body}\"}", "{scheme: jwt, location: bearer, algorithms: [ES256], jwks: \"http://a.example/jwks\"}", 1) + "    upstream: http://a\n",
			[]string{`f.yaml:7:72: sources.s.verify.jwks: "http://a.example/jwks" is not an https URL`}},
		{"no version", strings.TrimPrefix(source, "version: 1\n") + "    upstream: http://a\n", []string{`f.yaml:1:1: version: is missing // begin the file with version: 1`}},
		{"a later version", strings.Replace(source, "1", "2", 1) + "    upstream: http://a\n", []string{`f.yaml:1:10: version: must be 1`}},
		{"no sources", "version: 1\n", []string{`f.yaml:1:1: sources: is missing: there is nothing to receive`}},
		{"no upstream", source, []string{`f.yaml:3:3: sources.s.upstream: is missing // give a URL or a name under upstreams`}},
		{"two upstreams", source + "    upstream: http://a\n    delivery: {upstream: http://b}\n", []string{`f.yaml:9:15: sources.s.upstream: is given beside delivery.upstream // upstream is short for delivery.upstream: keep one`}},
		{"an unknown upstream", source + "    upstream: ap\nupstreams: {app: {url: http://a}}\n", []string{`f.yaml:9:15: sources.s.upstream: is neither a URL nor a name under upstreams // did you mean "app"?`}},
		{"an upstream at a port that there is not", source + "    upstream: http://a:99999\n", []string{`f.yaml:9:15: sources.s.upstream: the port must be a number from 1 to 65535`}},
		{"an upstream at port 0", source + "    upstream: app\nupstreams: {app: {url: \"http://[::1]:0/x\"}}\n", []string{`f.yaml:10:24: upstreams.app.url: the port must be a number from 1 to 65535`}},
		{"an upstream that is no web address", source + "    upstream: ftp://a\n", []string{`f.yaml:9:15: sources.s.upstream: must begin with http:// or https://`}},
		{"an upstream without URL", source + "    upstream: app\nupstreams:\n  app: {timeout: 1s}\n", []string{`f.yaml:11:3: upstreams.app.url: is missing`}},
		{"two sources on one path", source + "    upstream: http://a\n  a: {path: /s, provider: none, insecure: true, identity: {id: json:id}, upstream: http://a}\n", []string{`f.yaml:10:13: sources.a.path: is the path of sources.s, too`}},
		{"a path without slash", strings.Replace(source, "/s", "s", 1) + "    upstream: http://a\n", []string{`f.yaml:4:11: sources.s.path: must begin with /`}},
		{"a path that no request can have", strings.Replace(source, "/s", "'/a|b'", 1) + "    upstream: http://a\n", []string{"f.yaml:4:11: sources.s.path: must hold no space, query, fragment, character outside of ASCII or one of \\\"<>^`|: senders percent-encode them"}},
		{"a path selector without its segment", strings.Replace(source, "header:X-Id", "path:id", 1) + "    upstream: http://a\n", []string{`f.yaml:8:20: sources.s.identity.id: path:id: the path has no segment {id}`}},
		{"one that is not the first to be looked at", strings.Replace(source, "header:X-Id", "header:X-Id | path:id", 1) + "    upstream: http://a\n", []string{`f.yaml:8:20: sources.s.identity.id: path:id: the path has no segment {id}`}},
		{"a number without end", source + "    upstream: http://a\ndedup: {cache: 99999999999999999999}\n", []string{`f.yaml:10:16: dedup.cache: must be a whole number`}},
		{"a bad name of a source hides nothing in it", "version: 1\nsources:\n  My.Stripe: {path: a, provider: stripe, secretes: 1}\n", []string{
			`f.yaml:3:3: sources.My.Stripe: a name is made of lower-case letters, digits, - and _ (1 to 63, a letter or digit first)`,
			`f.yaml:3:21: sources.My.Stripe.path: must begin with /`,
			`f.yaml:3:3: sources.My.Stripe.secrets: the scheme needs at least one // for example secrets: [{env: MY.STRIPE_SECRET}]; it is Developers, Webhooks, the endpoint, Signing secret (whsec_…, used as it is)`,
			`f.yaml:3:42: sources.My.Stripe.secretes: unknown key // did you mean "secrets"?`,
			`f.yaml:3:3: sources.My.Stripe.upstream: is missing // give a URL or a name under upstreams`}},
		{"a bad name of an upstream", source + "    upstream: App\nupstreams: {App: {url: \"http://a\", timout: 1s}}\n", []string{
			`f.yaml:10:13: upstreams.App: a name is made of lower-case letters, digits, - and _ (1 to 63, a letter or digit first)`,
			`f.yaml:10:36: upstreams.App.timout: unknown key // did you mean "timeout"?`}},
		{"a scheme without anything else", "version: 1\nsources:\n  a: {path: /a, provider: custom, upstream: http://a, identity: {id: json:id}, verify: {scheme: hmac, signed: \"{timestamp}.{body}\"}}\n", []string{
			`f.yaml:3:3: sources.a.secrets: the scheme needs at least one // for example secrets: [{env: A_SECRET}]`,
			`f.yaml:3:80: sources.a.verify.header: say which header has the signature (or location)`,
			`f.yaml:3:80: sources.a.verify.timestamp: signed has {timestamp}, but nothing says where it is`}},
		{"an unknown provider", "version: 1\nsources:\n  a: {path: /a, provider: strpe, upstream: http://a}\n", []string{`f.yaml:3:27: sources.a.provider: unknown provider // did you mean "stripe"?`}},
		{"provider none alone", "version: 1\nsources:\n  a: {path: /a, provider: none, upstream: http://a, identity: {id: json:id}}\n", []string{`f.yaml:3:27: sources.a.provider: none verifies nothing // say insecure: true beside it if that is meant`}},
		{"insecure alone", source + "    upstream: http://a\n    insecure: true\n", []string{`f.yaml:10:15: sources.s.insecure: stands only beside provider: none`}},
		{"a preset without secrets", "version: 1\nsources:\n  a: {path: /a, provider: gitea, upstream: http://a}\n", []string{`f.yaml:3:3: sources.a.secrets: the scheme needs at least one // for example secrets: [{env: A_SECRET}]`}},
		{"a timestamp in what is signed but nowhere else", strings.Replace(source, "{body}", "{timestamp}.{body}", 1) + "    upstream: http://a\n", []string{`f.yaml:7:5: sources.s.verify.timestamp: signed has {timestamp}, but nothing says where it is`}},
		{"a signed URL without public_url", strings.Replace(source, "{body}", "{url}{body}", 1) + "    upstream: http://a\n", []string{`f.yaml:5:15: sources.s.provider: this sender signs the URL: public_url is needed // set public_url at the top of the file, such as https://hooks.example.com`}},
		{"no id", strings.Replace(source, "{id: header:X-Id}", "{type: json:type}", 1) + "    upstream: http://a\n", []string{`f.yaml:8:5: sources.s.identity.id: is missing // for example id: header:X-Event-Id, or body:sha256 where the sender gives none`}},
		{"no selector", strings.Replace(source, "header:X-Id", "X-Id", 1) + "    upstream: http://a\n", []string{`f.yaml:8:20: sources.s.identity.id: not a selector: "X-Id" has no kind (header:, query:, form:, json:, path:, body:sha256)`}},
		{"order without resource", source + "    upstream: http://a\n    ordering: {policy: serial}\n", []string{`f.yaml:10:24: sources.s.ordering.policy: serial needs identity.resource // say where it is: identity: {resource: json:data.id}`}},
		{"order without anything", source + "    upstream: http://a\n    ordering: {policy: window}\n", []string{`f.yaml:10:24: sources.s.ordering.policy: window needs identity.resource and identity.version // say where they are: identity: {resource: json:data.id, version: json:data.version}`}},
		{"order without version", strings.Replace(source, "id: header:X-Id", "id: header:X-Id, resource: json:r", 1) + "    upstream: http://a\n    ordering: {policy: window}\n", []string{`f.yaml:10:24: sources.s.ordering.policy: window needs identity.version // say where it is: identity: {version: json:data.version}`}},
		{"a version of parts that is to be an integer", strings.Replace(source, "id: header:X-Id", "id: header:X-Id, resource: json:r, version: [json:a, json:b]", 1) + "    upstream: http://a\n    ordering: {policy: window}\n", []string{`f.yaml:8:51: sources.s.identity.version: several selectors together are a text: no integer, and every event would be refused // alternatives are written json:a | json:b`}},
		{"a method in small letters", source + "    upstream: http://a\n    methods: [POST, put]\n", []string{`f.yaml:10:21: sources.s.methods[1]: methods are written in capitals // did you mean "PUT"?`}},
		{"a status that makes the sender retry", source + "    upstream: http://a\n    respond: {duplicate: 409}\n", []string{`f.yaml:10:26: sources.s.respond.duplicate: must be a status from 200 to 299: anything else makes the sender retry`}},
		{"an address without port", source + "    upstream: http://a\nlisten: localhost\n", []string{`f.yaml:10:9: listen: must be host:port or :port`}},
		{"an open admin port", source + "    upstream: http://a\nadmin: {listen: \":9090\"}\n", []string{`f.yaml:10:17: admin.listen: is no loopback address, and there are no tokens // add admin.tokens, or listen on 127.0.0.1`}},
		{"one address twice", source + "    upstream: http://a\nlisten: \"127.0.0.1:9090\"\n", []string{`f.yaml:1:1: admin.listen: is the address of the public port`}},
		{"a short token", source + "    upstream: http://a\nadmin:\n  tokens: [{name: a, token: {env: SHORT}, scopes: [admin]}]\n", []string{`f.yaml:11:22: admin.tokens[0].token: must be at least 16 bytes`}},
		{"an unknown scope", source + "    upstream: http://a\nadmin:\n  tokens: [{name: a, token: {env: HOOKTENDER_TOKEN}, scopes: [event:read]}]\n", []string{`f.yaml:11:63: admin.tokens[0].scopes[0]: must be one of events:read, payloads:read, replay:write, replay:force, admin // did you mean "events:read"?`}},
		{"two tokens of one name", source + "    upstream: http://a\nadmin:\n  tokens:\n    - {name: a, token: {env: HOOKTENDER_TOKEN}, scopes: [admin]}\n    - {name: a, token: {env: STRIPE_WEBHOOK_SECRET}, scopes: [admin]}\n", []string{`f.yaml:13:14: admin.tokens[1].name: is the name of admin.tokens[0], too`}},
		{"an unset secret", strings.Replace(source, "ORDERS_SECRET", "NOPE", 1) + "    upstream: http://a\n", []string{`f.yaml:6:21: sources.s.secrets[0]: the environment variable NOPE is not set`}},
		{"an empty secret", strings.Replace(source, "ORDERS_SECRET", "EMPTY", 1) + "    upstream: http://a\n", []string{`f.yaml:6:21: sources.s.secrets[0]: the environment variable EMPTY is empty`}},
		{"a padded secret", strings.Replace(source, "ORDERS_SECRET", "PADDED", 1) + "    upstream: http://a\n", []string{`f.yaml:6:21: sources.s.secrets[0]: the environment variable PADDED begins or ends with white space`}},
		{"no form of a secret", strings.Replace(source, "{env: ORDERS_SECRET}", "{evn: ORDERS_SECRET}", 1) + "    upstream: http://a\n", []string{`f.yaml:6:15: sources.s.secrets[0]: must be {env: NAME} or {file: path} // did you mean "env"?`}},
		{"an unset secret with a name that is put together", strings.Replace(source, "ORDERS_SECRET", "\"${env:NOPE:-WRONG}_SECRET\"", 1) + "    upstream: http://a\n", []string{`f.yaml:6:21: sources.s.secrets[0]: the environment variable is not set`}},
		{"a variable in a list without quotes", source + "    upstream: http://a\ntrusted_proxies: [${env:PORT}]\n", []string{`f.yaml:10:20: is no YAML: did not find expected ',' or ']' // inside of { } and [ ] put ${env:NAME} in quotes`}},
		{"an unset variable", source + "    upstream: ${env:NOPE}\n", []string{`f.yaml:9:15: sources.s.upstream: the environment variable NOPE is not set // set it, or give a default: ${env:NOPE:-value}`}},
		{"an open expression", source + "    upstream: ${env:NOPE\n", []string{`f.yaml:9:15: sources.s.upstream: ${env: without its closing }`}},
		{"an unknown anchor", "version: *secret\n", []string{`f.yaml:1:10: is no YAML: an alias (*name) without its anchor (&name); put text that begins with * in quotes`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("f.yaml", []byte(tt.file), testEnv)
			var all *Errors
			if !errors.As(err, &all) || c != nil {
				t.Fatalf("config %v, error %v", c, err)
			}
			var got []string
			for _, p := range all.Problems {
				line := p.String()
				if p.Hint != "" {
					line += " // " + p.Hint
				}
				got = append(got, line)
			}
			// The table gives faults in the order that reads best.
			if !sameSet(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func sameSet(a, b []string) bool {
	seen := map[string]int{}
	for _, s := range a {
		seen[s]++
	}
	for _, s := range b {
		seen[s]--
	}
	for _, n := range seen {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestAllFaultsAreReportedAtOnceWithTheirLines(t *testing.T) {
	_, err := Parse("hooktender.yaml", []byte(`version: 1
listen: ":8080"
jurnal: {sync: always}
retention: {dedup: 7d}       # a week
sources:
  stripe:
    path: webhooks
    provider: stripe
    secrets: [{env: NOPE}]
    upstrem: http://127.0.0.1:3000
`), testEnv)
	const want = `hooktender.yaml:3:1: jurnal: unknown key
    3 | jurnal: {sync: always}
      | ^
        did you mean "journal"?
hooktender.yaml:4:20: retention.dedup: must be a duration such as 500ms, 5m or 168h
    4 | retention: {dedup: 7d}
      |                    ^
        did you mean 168h?
hooktender.yaml:6:3: sources.stripe.upstream: is missing
    6 |   stripe:
      |   ^
        give a URL or a name under upstreams
hooktender.yaml:7:11: sources.stripe.path: must begin with /
    7 |     path: webhooks
      |           ^
hooktender.yaml:9:21: sources.stripe.secrets[0]: the environment variable NOPE is not set
    9 |     secrets: [{env: NOPE}]
      |                     ^
hooktender.yaml:10:5: sources.stripe.upstrem: unknown key
   10 |     upstrem: http://127.0.0.1:3000
      |     ^
        did you mean "upstream"?`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestAFileThatIsTooLargeIsRefused(t *testing.T) {
	_, err := Parse("f.yaml", []byte(strings.Repeat("# 34567\n", maxFile/8+1)), testEnv)
	if err == nil || err.Error() != "f.yaml: is larger than 1MiB" {
		t.Errorf("error %v", err)
	}
}

func TestWarnings(t *testing.T) {
	file := source + "    upstream: http://a\n  slow: {path: /slow, provider: none, insecure: true, identity: {id: json:id}, upstream: http://a}\njournal: {sync: none}\n"
	file = strings.Replace(file, "{env: ORDERS_SECRET}", "{value: literal-secret-1}, literal-secret-2", 1)
	file = strings.Replace(file, "scheme: hmac", "mode: observe, scheme: hmac", 1)
	c := mustParse(t, file)
	var got []string
	for _, p := range c.Warnings {
		got = append(got, p.String())
	}
	want := []string{
		"hooktender.yaml: admin: the admin port has no tokens: everyone on this host may use it",
		"hooktender.yaml:6:23: sources.s.secrets[0]: a secret stands in the file itself",
		"hooktender.yaml:6:42: sources.s.secrets[1]: a secret stands in the file itself",
		"hooktender.yaml:7:20: sources.s.verify.mode: requests that fail verification are let through",
		"hooktender.yaml:10:33: sources.slow.provider: requests are not verified: anyone who knows the path can send",
		"hooktender.yaml:11:17: journal.sync: a power cut may lose events that were answered 2xx",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDedupShorterThanTheSendersRetriesIsAWarning(t *testing.T) {
	c := mustParse(t, minimal+"retention: {dedup: 24h}\n")
	for _, w := range c.Warnings {
		if w.Key == "sources.stripe.provider" && strings.Contains(w.Message, "retention.dedup forgets it after 24h") {
			return
		}
	}
	t.Errorf("warnings: %v", c.Warnings)
}

func TestAnOrderOfTypesThatNothingTellsIsAWarning(t *testing.T) {
	ordered := func(types, kind string) string {
		return strings.Replace(source, "id: header:X-Id", "id: header:X-Id, resource: json:r"+kind, 1) + "    upstream: http://a\n    ordering: {policy: serial, types: [" + types + "]}\n"
	}
	for file, want := range map[string]bool{ordered("order.*", ""): true, ordered("order.*", ", type: json:t"): false, ordered(`order.*, "*"`, ""): false} {
		warned := false
		for _, w := range mustParse(t, file).Warnings {
			warned = warned || w.Key == "sources.s.ordering.types"
		}
		if warned != want {
			t.Errorf("warned %t:\n%s", warned, file)
		}
	}
}

// The account is part of what an event is known by.
func TestAnUnsignedAccountIsAWarning(t *testing.T) {
	with := func(account, more string) string {
		return strings.NewReplacer("id: header:X-Id", "id: json:id, account: "+account, "scheme: hmac", more+"scheme: hmac").Replace(source) + "    upstream: http://a\n"
	}
	for file, want := range map[string]bool{
		with("json:a", ""): false, with("header:X-A", ""): true, with("json:a | header:X-A", ""): true, with("header:X-A", "binds: origin, "): false,
		strings.Replace(with("header:X-A", "timestamp: header:X-T, tolerance: 5m, "), "{body}", "{timestamp}.{body}", 1): false,
		strings.Replace(with("header:X-A", ""), "{body}", "{header:X-A}.{body}", 1):                                      false,
	} {
		warned := false
		for _, w := range mustParse(t, file).Warnings {
			warned = warned || w.Key == "sources.s.identity.account"
		}
		if warned != want {
			t.Errorf("warned %t:\n%s", warned, file)
		}
	}
}

// All GETs of a source whose id is the hash of the body are one event, and the second is answered 200 duplicate and delivered nowhere.
func TestAGetWithoutAnIDIsAWarning(t *testing.T) {
	with := func(id, methods, more string) string {
		return strings.Replace(source, "id: header:X-Id", "id: \""+id+"\"", 1) + "    methods: [" + methods + "]\n    upstream: http://a\n" + more
	}
	for file, want := range map[string]bool{
		with("body:sha256", "POST", ""): false, with("body:sha256", "POST, GET", ""): true, with("json:id | body:sha256", "GET", ""): true,
		with("query:id | body:sha256", "GET", ""): false, with("json:id", "GET", ""): false, with("body:sha256", "GET", "    dedup: {mode: observe}\n"): false,
	} {
		warned := false
		for _, w := range mustParse(t, file).Warnings {
			warned = warned || strings.HasPrefix(w.Key, "sources.s.methods[")
		}
		if warned != want {
			t.Errorf("warned %t:\n%s", warned, file)
		}
	}
}

const canary = "CANARY_5ecr3t_do_not_show"

func TestASecretNeverShows(t *testing.T) {
	file := t.TempDir() + "/padded"
	if err := os.WriteFile(file, []byte(canary+" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) {
		if name == "PADDED" {
			return canary + " ", true
		}
		return canary, name == "CANARY"
	}
	for _, where := range []string{
		"    secrets: [" + canary + "]\n", "    secrets: " + canary + "\n", "    secrets: [{value: " + canary + ", env: X}]\n",
		"    secrets: [{" + canary + ": x}]\n", "    secrets:\n      " + canary + ":\n", "    secrets: [{env: " + canary + " }]\n",
		"    secrets: [{env: \"" + canary + "-x\"}]\n", "    secrets: [{file: " + canary + "}]\n", "    secrets: [{file: " + file + "}]\n",
		"    secrets: [{env: PADDED}]\n", "    secrets: [\"" + canary + " \"]\n", "    secrets: [[" + canary + "]]\n",
		"    secrets: [{value: [" + canary + "]}]\n", "    sekrets: [" + canary + "]\n", "    token: " + canary + "\n",
		"    secrets: [*" + canary + "]\n", "    secrets: [\"" + canary + "\n", "    secrets: [" + canary + ", {x: y}, foo: {bar\n",
		"    secrets: [{env: CANARY}]   # old: " + canary + "\n    path: x y\n", "    secrets: [first\n      " + canary + ", {x: y}]\n",
		"    handshake: {verify_token: [" + canary + ", {x: y}]}\n", "    handshake: {verify_token: [" + canary + ", {env: NOPE}]}\n",
		"    secrets: [!" + canary + " {x: y}]\n", "    secrets: [&" + canary + " {x: y}]\n",
		"    secrets: [{value: \"${env:CANARY} \"}]\n", "    upstream: ${env:CANARY}\n", "    limits: {body: \"${env:CANARY}\", allow_ips: [\"${env:CANARY}\"]}\n",
		"    ordering: {types: [\"${env:CANARY}[\"]}\n", "    secrets:\n    - |\n      " + canary + "\n      \tx\n    - {x: y}\n", "\tsecrets: " + canary + "\n",
		"    secrets: [{value: " + canary + "}]\n    secrets: [{value: " + canary + "}]\n", "    public_keys: [" + canary + "]\n    secrets: [{env: NOPE}]\n",
		"    upstream: http://app:" + canary + "@a\n", "    upstream: app:" + canary + "@a:3000\n", "    delivery: {upstream: \"http://app:" + canary + "%zz@a:99999\"}\n",
		"    upstream: http://a/in?token=" + canary + "\n", "upstreams: {a: {url: \"https://" + canary + "@a\"}}\n", "public_url: https://app:" + canary + "@a\n",
	} {
		c, err := Parse("f.yaml", []byte("version: 1\nsources:\n  s:\n    provider: custom\n    verify: {scheme: hmac}\n"+where), env)
		if err == nil {
			t.Fatalf("%q: no error, but %v", where, c)
		}
		if strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "5ecr3t") {
			t.Errorf("%q shows the secret:\n%v", where, err)
		}
		if all := new(Errors); errors.As(err, &all) && all.cause != nil && strings.Contains(all.cause.Error(), canary) {
			t.Errorf("%q: the cause shows the secret: %v", where, all.cause)
		}
	}
}

// The line of an unknown key is shown as it stands where its value cannot be a secret, and cut off before it where it could be one.
func TestTheLineOfAnUnknownKeyIsShownUnlessItMayHoldASecret(t *testing.T) {
	for line, want := range map[string]string{
		"pth: /webhooks/stripe":                           "pth: /webhooks/stripe",
		"max_attmpts: 3":                                  "max_attmpts: 3",
		"metods: [POST]":                                  "metods: [POST]",
		"retries: {base: 1s, jitter: full}":               "retries: {base: 1s, jitter: full}",
		"limit: {body: 5MiB, allow_ips: []}":              "limit: {body: 5MiB, allow_ips: []}",
		"debugg: true # on":                               "debugg: true",
		"upstrem: http://127.0.0.1:3000/in":               "upstrem: http://127.0.0.1:3000/in",
		"upstrem: http://user:hunter@a":                   "upstrem: …",
		"upstrem: https://hooks.example.com/T0A/b1c":      "upstrem: …",
		"secrts: [{env: NAME}]":                           "secrts: [{…",
		"pasword: 123456":                                 "pasword: …",
		"API_KEY: 123456":                                 "API_KEY: …",
		"note: hunter2":                                   "note: …",
		"delivry: {mode: proxy, hunter2: 1}":              "delivry: {mode: proxy, …",
		"delivry: {secrets: [hunter2], mode: hybrid}":     "delivry: {secrets: […",
		"handshak: {verify_token: meatyhamhock, mode: x}": "handshak: {…",
	} {
		_, err := Parse("f.yaml", []byte("version: 1\nsources:\n  s:\n    "+line+"\n"), testEnv)
		if err == nil || !strings.Contains(err.Error(), "    4 |     "+want+"\n") {
			t.Errorf("%s: want %q in\n%v", line, want, err)
		}
	}
}
