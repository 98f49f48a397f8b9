// Command go-service hands out identifiers.
//
//	GET /         -> {"service":"go-service","version":"..."}
//	GET /id/name  -> {"id":"..."}: the same name, the same id
package main

import (
	"encoding/json"
	"log"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
)

// version is set when the program is linked.
var version = "unknown"

func answer(w http.ResponseWriter, value map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Print(err)
	}
}

func main() {
	router := chi.NewRouter()
	router.Get("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"service": "go-service", "version": version})
	})
	router.Get("/id/{name}", func(w http.ResponseWriter, r *http.Request) {
		id := uuid.NewSHA1(uuid.NameSpaceURL, []byte(chi.URLParam(r, "name")))
		answer(w, map[string]string{"id": id.String()})
	})
	log.Fatal(http.ListenAndServe(":8080", router))
}
