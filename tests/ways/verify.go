// Says whether Go accepts a chain for a name: verify ROOTS CHAIN NAME → "ok", or the error. Built by tests/tools/install.sh.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func main() {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read(os.Args[1])) {
		fail("no root")
	}
	var leaf *x509.Certificate
	between := x509.NewCertPool()
	for rest := read(os.Args[2]); ; {
		block, more := pem.Decode(rest)
		if block == nil {
			break
		}
		rest = more
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			fail(err.Error())
		}
		if leaf == nil {
			leaf = certificate
		} else {
			between.AddCert(certificate)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: os.Args[3]})
	if err != nil {
		fail(err.Error())
	}
	fmt.Println("ok")
}

func read(path string) []byte {
	bytes, err := os.ReadFile(path)
	if err != nil {
		fail(err.Error())
	}
	return bytes
}

func fail(why string) {
	fmt.Println(why)
	os.Exit(1)
}
