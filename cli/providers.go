package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/selector"
)

// presetInfo is a preset in JSON.
type presetInfo struct {
	Name        string         `json:"name"`
	Confidence  string         `json:"confidence"`
	Scheme      api.Text       `json:"scheme"`
	Binds       string         `json:"binds"`
	ID          selector.Texts `json:"id"`
	IDSigned    bool           `json:"id_signed"`
	Tolerance   api.Text       `json:"tolerance"` // null: any age
	Secret      api.Text       `json:"secret"`
	Handshake   api.Text       `json:"handshake"`
	Deadline    api.Text       `json:"deadline"`     // null: not known
	RetryWindow api.Text       `json:"retry_window"` // null: not known, or it does not retry
	Note        api.Text       `json:"note"`
	YAML        string         `json:"yaml,omitempty"`
}

func infoOf(p *provider.Preset) presetInfo {
	id := p.Identity.ID
	if id == nil {
		id = selector.Texts{}
	}
	return presetInfo{Name: p.ID, Confidence: string(p.Confidence), Scheme: api.Text(p.Verify.Scheme), Binds: string(p.Binds()), ID: id, IDSigned: p.SignsID(),
		Tolerance: span(p.Tolerance()), Secret: api.Text(p.Secret), Handshake: api.Text(p.Handshake), Deadline: span(p.Deadline), RetryWindow: span(p.RetryWindow), Note: api.Text(p.Note)}
}

func span(d time.Duration) api.Text { return api.Text(provider.ShortDuration(d)) }

func providersCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "providers [name]", Short: "List the provider presets, or show one as configuration", Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeProviders}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return e.listProviders()
		}
		p, err := preset(args[0])
		if err != nil {
			return err
		}
		info := infoOf(&p)
		info.YAML = string(p.YAML())
		return e.printValue(info, func(w io.Writer) { fmt.Fprint(w, info.YAML) })
	}
	return cmd
}

// preset finds one by name; an unknown one exits 4.
func preset(name string) (provider.Preset, error) {
	p, ok := provider.Get(name)
	if ok {
		return p, nil
	}
	if near := provider.Suggest(name); near != "" {
		return p, fail(exitNotFound, "no provider %q; did you mean %s?", name, near)
	}
	return p, fail(exitNotFound, "no provider %q; 'hooktender providers' lists them", name)
}

func completeProviders(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, p := range provider.All() {
		names = append(names, p.ID)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (e *env) listProviders() error {
	page := api.Page[presetInfo]{Data: []presetInfo{}}
	for _, p := range provider.All() {
		page.Data = append(page.Data, infoOf(&p))
	}
	return e.printValue(page, func(w io.Writer) {
		t := e.table("PROVIDER", "CONFIDENCE", "SCHEME", "BINDS", "ID SIGNED", "TOLERANCE", "CHALLENGE", "ID", "SECRET")
		for _, p := range page.Data {
			paint := plain
			if p.Confidence == string(provider.Unconfirmed) {
				paint = yellow
			}
			signed := "no"
			if p.IDSigned {
				signed = "yes"
			}
			t.row(p.Name, cell{p.Confidence, paint}, string(p.Scheme), p.Binds, signed, string(p.Tolerance), string(p.Handshake), joined(p.ID), string(p.Secret))
		}
		t.writeTo(w)
	})
}

func joined(list selector.Texts) string {
	var out strings.Builder
	for i, s := range list {
		if i > 0 {
			out.WriteString(" + ")
		}
		out.WriteString(s)
	}
	return out.String()
}
