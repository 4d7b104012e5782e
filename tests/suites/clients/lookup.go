// Looks up each argument by Go's own resolver, and prints one line of addresses for each.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

func main() {
	for _, name := range os.Args[1:] {
		addresses, err := net.LookupHost(name)
		var failure *net.DNSError
		switch {
		case errors.As(err, &failure) && failure.IsNotFound:
			fmt.Println("not found")
		case err != nil:
			fmt.Println("error:", err)
		default:
			fmt.Println(strings.Join(addresses, " "))
		}
	}
}
