//go:build race

package verify

const raceEnabled = true // the race detector empties pools at random
