package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/config"
)

func configCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Print the configuration's schema, an example, or what is in effect", RunE: e.group}
	cmd.AddCommand(
		&cobra.Command{Use: "schema", Short: "Print the JSON Schema of the file, for editors", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				return e.print(config.Schema(), func(w io.Writer) { _, _ = w.Write(config.Schema()) })
			}},
		&cobra.Command{Use: "example", Short: "Print an example with every key, its documentation and its default", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return e.write(config.Example()) }},
		&cobra.Command{Use: "print", Short: "Print the configuration in effect, defaults and presets included; secrets as where they come from", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				cfg, err := e.load()
				if err != nil {
					return err
				}
				if e.output == "table" {
					return config.Print(e.stdout, cfg)
				}
				raw, err := config.JSON(cfg)
				if err != nil {
					return err
				}
				return e.print(raw, nil)
			}})
	return cmd
}
