#include <stdlib.h>

#include "primes.h"

size_t primes_below(size_t limit)
{
	unsigned char *composite = calloc(limit + 1, 1);
	size_t count = 0;

	if (!composite)
		abort();
	for (size_t i = 2; i < limit; i++) {
		if (composite[i])
			continue;
		count++;
		for (size_t j = i * i; j < limit; j += i)
			composite[j] = 1;
	}
	free(composite);
	return count;
}
