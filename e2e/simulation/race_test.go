//go:build race

package simulation

const raceEnabled = true // it lets goroutines run in another order each time
