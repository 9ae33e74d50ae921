//go:build !linux

package embedded

import "golang.org/x/sys/unix"

// filesystemName is what statfs(2) calls the file system.
func filesystemName(st *unix.Statfs_t) string { return unix.ByteSliceToString(st.Fstypename[:]) }
