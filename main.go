// Command hooktender is a receiver-side reverse proxy for webhooks: what reaches the service behind it is authentic, once, in order and never lost.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/hooktender/hooktender/cli"
)

func main() {
	syscall.Umask(0o077) // whatever is written is for its owner only, also by libraries that ask for more
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals // a second one does not wait
		os.Exit(1)
	}()
	os.Exit(cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
