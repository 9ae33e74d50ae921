package cli

import "github.com/spf13/cobra"

// constructors make the commands of the root, in the order of the help.
var constructors = []func(*env) *cobra.Command{
	runCommand,
	validateCommand,
	demoCommand,
	eventsCommand,
	replayCommand,
	deadCommand,
	checkpointCommand,
	sourcesCommand,
	resourcesCommand,
	upstreamsCommand,
	sendCommand,
	providersCommand,
	verifyCommand,
	configCommand,
	journalCommand,
	doctorCommand,
	healthcheckCommand,
	drainCommand,
	versionCommand,
}
