package report

import (
	"embed"
	"encoding/json"
	"net/http"

	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
)

//go:embed page
var page embed.FS

// policy lets the page load its own two files and ask /status, and nothing else. No
// script of another origin, no inline script and no text that becomes markup can run
// (Trusted Types without any policy), whatever the document says.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Register adds to mux, for clients within the pod and by a loopback name only:
//
//	/        the page
//	/status  the document, as ask returns it in the order ByBytes or ByAge: ?sort=age
func Register(mux *http.ServeMux, ask func(order string) Document) {
	add := func(path string, h http.HandlerFunc) {
		mux.Handle("GET "+path, adminhttp.FromLoopback(adminhttp.NamedLoopback(guarded(h))))
	}
	for path, file := range map[string]string{"/{$}": "index.html", "/live.css": "live.css", "/live.js": "live.js"} {
		add(path, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, page, "page/"+file)
		})
	}
	add("/status", func(w http.ResponseWriter, r *http.Request) {
		order := ByBytes
		if r.URL.Query().Has("sort") {
			order = r.URL.Query().Get("sort")
		}
		if order != ByBytes && order != ByAge {
			http.Error(w, "sort is "+ByBytes+" or "+ByAge, http.StatusBadRequest)
			return
		}
		text, err := json.Marshal(ask(order))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text)
	})
}

// guarded adds the headers by which a browser keeps others from what h answers.
func guarded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Cache-Control":                "no-store",
			"Content-Security-Policy":      policy,
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "no-referrer",
			"X-Content-Type-Options":       "nosniff",
		} {
			w.Header().Set(name, value)
		}
		h(w, r)
	}
}
