package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

const repository = "https://github.com/tproxy-cni/tproxy-cni"

// sbom writes what the programs are made of, as Go has recorded it in them.
// It has no serial number and no time: those would differ from run to run.
func (r release) sbom() error {
	product := component(cdx.ComponentTypeApplication, "github.com/tproxy-cni/tproxy-cni", r.version)
	product.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}
	product.ExternalReferences = &[]cdx.ExternalReference{{Type: cdx.ERTypeVCS, URL: repository}}

	var files []cdx.Component
	libraries := map[string]cdx.Component{}
	uses := map[string][]string{product.BOMRef: nil}
	for _, arch := range arches {
		for _, p := range ours() {
			file, modules, err := r.describe(p, arch)
			if err != nil {
				return err
			}
			files = append(files, file)
			uses[product.BOMRef] = append(uses[product.BOMRef], file.BOMRef)
			for _, m := range modules {
				libraries[m.BOMRef] = m
				uses[file.BOMRef] = append(uses[file.BOMRef], m.BOMRef)
				uses[m.BOMRef] = nil
			}
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(libraries)) {
		files = append(files, libraries[ref])
	}
	var dependencies []cdx.Dependency
	for _, ref := range slices.Sorted(maps.Keys(uses)) {
		d := cdx.Dependency{Ref: ref}
		if on := uses[ref]; on != nil {
			slices.Sort(on)
			d.Dependencies = &on
		}
		dependencies = append(dependencies, d)
	}

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &product}
	bom.Components, bom.Dependencies = &files, &dependencies
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return err
	}
	return r.write("tproxy-cni-"+r.version+".cdx.json", text.Bytes())
}

// describe is one program with its checksum, and the modules in it with Go's
// standard library.
func (r release) describe(program, arch string) (cdx.Component, []cdx.Component, error) {
	content, err := os.ReadFile(r.program(program, arch))
	if err != nil {
		return cdx.Component{}, nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return cdx.Component{}, nil, fmt.Errorf("%s for %s: %w", program, arch, err)
	}
	name := program + "-linux-" + arch
	file := cdx.Component{
		BOMRef: name, Type: cdx.ComponentTypeApplication, Name: name, Version: r.version,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: fmt.Sprintf("%x", sha256.Sum256(content))}},
	}
	modules := []cdx.Component{component(cdx.ComponentTypeLibrary, "stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, m := range info.Deps {
		modules = append(modules, module(m))
	}
	return file, modules, nil
}

// module is one that Go has recorded; Sum is what go.sum has.
func module(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	c := component(cdx.ComponentTypeLibrary, m.Path, m.Version)
	if m.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:module:sum", Value: m.Sum}}
	}
	return c
}

// component has a package URL, by which scanners look up vulnerabilities.
func component(kind cdx.ComponentType, path, version string) cdx.Component {
	purl := "pkg:golang/" + path + "@" + version
	return cdx.Component{BOMRef: purl, Type: kind, Name: path, Version: version, PackageURL: purl}
}
