// Command empty does nothing: it is the cost of running any Go program.
package main

func main() {}
