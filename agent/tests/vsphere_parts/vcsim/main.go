// A server of vcsim with what lab.go adds to it, for the tests of agent/tests/vsphere.rs.
// Prints one line of JSON once it listens; ends when its standard input does.
package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/ioutil"
	"log"
	"math/big"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
)

// A certificate as servers have today: the simulator's own key is of 1024 bits, which no client of
// ours believes.
func certificate() tls.Certificate {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	told := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "lab"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &told, &told, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	dir := flag.String("dir", "", "where the disks of the machines lie")
	sizes := flag.String("disks", "", "sizes of every machine's disks, in bytes, with commas")
	idle := flag.Duration("idle", 0, "how long a session may be idle")
	flag.Parse()
	log.SetOutput(ioutil.Discard)
	simulator.SessionIdleTimeout = *idle
	simulator.LabDir = *dir
	model := simulator.VPX()
	if err := model.Create(); err != nil {
		panic(err)
	}
	var bytes []int64
	for _, size := range strings.Split(*sizes, ",") {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			panic(err)
		}
		bytes = append(bytes, n)
	}
	simulator.PrepareLab(bytes)
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("user", "pass")}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	model.Service.HandleFunc("/lab/", simulator.ServeLab)
	server := model.Service.NewServer()
	file, err := server.CertificateFile()
	if err != nil {
		panic(err)
	}
	told, _ := json.Marshal(map[string]string{
		"url":        "https://" + server.URL.Host,
		"ca":         file,
		"thumbprint": fmt.Sprintf("%x", sha256.Sum256(server.Certificate().Raw)),
	})
	fmt.Println(string(told))
	_, _ = io.Copy(ioutil.Discard, os.Stdin)
	server.Close()
	model.Remove()
}
