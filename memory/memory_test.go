package memory

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func begin(t *testing.T) (k *keeper, freed *int) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	k, freed = newKeeper(64<<20), new(int)
	k.free = func() { *freed++ }
	return k, freed
}

var hold []byte

func TestBoundFollowsWhatLives(t *testing.T) {
	k, _ := begin(t)
	k.look()
	if got := debug.SetMemoryLimit(-1); got != 112<<20 {
		t.Errorf("the bound is %d MiB, not the journal's and 48", got>>20)
	}
	hold = make([]byte, 200<<20)
	runtime.GC()
	k.look()
	if got := debug.SetMemoryLimit(-1); got < 240<<20 || got > 280<<20 {
		t.Errorf("with 200 MiB in use the bound is %d MiB", got>>20)
	}
	hold = nil
	look := make([]*byte, 60<<17) // 60 MiB of pointers
	runtime.GC()
	k.look()
	if got := debug.SetMemoryLimit(-1); got != 160<<20 {
		t.Errorf("with 60 MiB to look through the bound is %d MiB, not the journal's and 96", got>>20)
	}
	runtime.KeepAlive(look)
	look = nil
	runtime.GC()
	k.look()
	if got := debug.SetMemoryLimit(-1); got != 112<<20 {
		t.Errorf("the bound stays at %d MiB", got>>20)
	}
}

func TestBoundOfTheOperatorStays(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "1GiB")
	k, _ := begin(t)
	debug.SetMemoryLimit(1 << 30)
	k.look()
	if got := debug.SetMemoryLimit(-1); got != 1<<30 {
		t.Errorf("the bound is %d MiB now", got>>20)
	}
}

func TestMemoryGoesBackWhenTheWorkIsOver(t *testing.T) {
	k, freed := begin(t)
	work := func() {
		hold = make([]byte, 2*calm)
		k.look()
		hold = nil
	}
	calmLooks := func(n, want int) {
		t.Helper()
		for range n {
			k.look()
		}
		if *freed != want {
			t.Fatalf("given back %d times, not %d", *freed, want)
		}
	}
	work()
	calmLooks(rested-1, 0)
	work() // goes on
	calmLooks(rested-1, 0)
	calmLooks(1, 1)
	calmLooks(settled-rested-1, 1)
	calmLooks(1, 2)
	calmLooks(100, 2) // nothing has come since
	work()
	calmLooks(rested, 3)
}
