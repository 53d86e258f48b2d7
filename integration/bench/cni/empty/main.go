// empty does nothing: what it costs to run any Go program at all.
package main

func main() {}
