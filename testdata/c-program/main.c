#include <stdio.h>
#include <stdlib.h>

#include "primes.h"

int main(int argc, char **argv)
{
	size_t limit = argc > 1 ? strtoul(argv[1], NULL, 10) : 100;

	printf("%zu primes below %zu\n", primes_below(limit), limit);
	return 0;
}
