// Page writes docs/providers/README.md: every preset in one table. Run it with go generate ./provider.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/hooktender/hooktender/provider"
)

func main() {
	if err := os.WriteFile("../docs/providers/README.md", page(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "page:", err)
		os.Exit(1)
	}
}

const head = `# Senders

` + "`provider: <name>`" + ` and the secret are all that a source needs; ` + "`hooktender providers <name>`" + ` shows a row as YAML to paste and change under ` + "`verify:`" + `.
Recipes with configuration, where the secret is, retry schedule and a test command:
[Stripe](stripe.md), [GitHub](github.md), [GitLab](gitlab.md), [Shopify](shopify.md), [Slack](slack.md), [Twilio](twilio.md), [Standard Webhooks](standard-webhooks.md)
(Svix, Clerk, Resend, OpenAI), [Square](square.md), [PayPal](paypal.md), [SendGrid](sendgrid.md), [Discord](discord.md), [Amazon SNS](aws-sns.md),
[Amazon EventBridge](eventbridge.md), [Microsoft Graph](ms-graph.md). A sender that is not here is described in YAML: [custom](custom.md).

- **binds**: what a good signature proves. ` + "`body`" + `: every byte, or all that is said. ` + "`crc32`" + `: a checksum of the body, which can be forged. ` + "`origin`" + `: that the sender holds the
  secret, not the body: whoever has seen a request can change it. The consumer reads it in ` + "`Hooktender-Verified`" + `.
- **id signed**: nobody can give a captured request another id. Where it is not, and no signed time is checked (or the id is a field of a form, which another Content-Type hides), the verified MAC is a second replay key.
- **confidence**: official (the sender's documents or SDK), community (libraries and reports of others), unconfirmed, generic (a common way to sign, no sender).

Generated from ` + "`provider/providers.yaml`" + ` by ` + "`go generate ./provider`" + `.

| provider | scheme | binds | id | id signed | tolerance | challenge | waits | retries for | confidence | secret |
|---|---|---|---|---|---|---|---|---|---|---|
`

func page() []byte {
	var b bytes.Buffer
	b.WriteString(head)
	for _, p := range provider.All() {
		signed := "no"
		if p.SignsID() {
			signed = "yes"
		}
		scheme := strings.TrimSpace(p.Verify.Scheme + " " + p.Verify.Algorithm)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.ID, dash(scheme), p.Binds(), code(p.Identity.ID), signed, dash(provider.ShortDuration(p.Tolerance())), dash(p.Handshake),
			dash(provider.ShortDuration(p.Deadline)), dash(provider.ShortDuration(p.RetryWindow)), p.Confidence, dash(cell(p.Secret)))
	}
	var notes bool
	for _, p := range provider.All() {
		if p.Note == "" {
			continue
		}
		if !notes {
			b.WriteString("\n## Notes\n")
			notes = true
		}
		fmt.Fprintf(&b, "- **%s**: %s\n", p.ID, p.Note)
	}
	return b.Bytes()
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func code(list []string) string {
	if len(list) == 0 {
		return "–"
	}
	return "`" + cell(strings.Join(list, " + ")) + "`"
}
