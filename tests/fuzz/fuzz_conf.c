/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz_conf: any text as a configuration file: it loads, or there is a message that names the file.
 */
#include "conf.h"

#include <stdlib.h>
#include <string.h>

struct config {
	char *text;
	uint64_t bytes, ms, number;
	bool flag;
	int choice;
};

static const char *const choices[] = { "one", "two", NULL };

static const struct conf_key keys[] = {
	{ "main", "text", CONF_STRING, offsetof(struct config, text), "x", 0, 0, NULL, "" },
	{ "main", "bytes", CONF_BYTES, offsetof(struct config, bytes), "1M", 1, 1ull << 40, NULL,
	  "" },
	{ "main", "ms", CONF_MS, offsetof(struct config, ms), "5s", 1, 1ull << 40, NULL, "" },
	{ "main", "number", CONF_NUMBER, offsetof(struct config, number), NULL, 0, 0, NULL, "" },
	{ "main", "flag", CONF_BOOL, offsetof(struct config, flag), "no", 0, 0, NULL, "" },
	{ "main", "choice", CONF_CHOICE, offsetof(struct config, choice), "two", 0, 0, choices,
	  "" },
	{ "disk", "text", CONF_STRING, offsetof(struct config, text), NULL, 0, 0, NULL, "" },
	{ 0 },
};

static struct config configs[4];
static unsigned used;

static void *section(void *config, const char *kind, const char *name)
{
	if (!strcmp(kind, "main"))
		return name ? NULL : config;
	return name && used < 4 ? &configs[used++] : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const struct conf_schema schema = { keys, section };
	struct config config = { 0 };
	char *text = malloc(bytes + 1);
	char error[200];
	int result;

	if (!text)
		return 0;
	memcpy(text, data, bytes);
	text[bytes] = '\0';
	used = 1; /* configs[0] stays as it is */
	result = conf_load_text(&schema, "fuzz.conf", text, &config, error, sizeof(error));
	if (result > 0 || (result < 0) != !strncmp(error, "fuzz.conf:", 10))
		abort();
	if (!result && (config.choice < 0 || config.choice > 1 || config.bytes > 1ull << 40))
		abort();
	conf_free(&schema, "main", &config);
	for (unsigned i = 0; i < 4; i++)
		conf_free(&schema, "disk", &configs[i]);
	free(text);
	return 0;
}
