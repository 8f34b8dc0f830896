/* replay.c - runs a fuzz target over the files of a folder, where libFuzzer is not.
 *
 * Every file is tried whole, cut at each length and with each bit turned, so that a small
 * corpus is a test. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUT_MAX = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In a block of its exact size, so that a sanitizer sees one byte more. */
static void try_input(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);

    if (!copy)
        abort();
    memcpy(copy, bytes, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static void replay(uint8_t *bytes, size_t len)
{
    try_input(bytes, len);
    for (size_t n = 0; n < len; n++)
        try_input(bytes, n);
    for (size_t i = 0; i < 8 * len; i++) {
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
        try_input(bytes, len);
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
    }
}

int main(int argc, char **argv)
{
    static uint8_t bytes[INPUT_MAX];
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    struct dirent *d;
    int files = 0;

    if (!dir) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    while ((d = readdir(dir))) {
        char path[512];
        FILE *f;

        if (d->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", argv[1], d->d_name);
        f = fopen(path, "rb");
        if (!f) {
            perror(path);
            return 1;
        }
        replay(bytes, fread(bytes, 1, sizeof(bytes), f));
        fclose(f);
        files++;
    }
    closedir(dir);
    printf("%d inputs\n", files);
    return files > 0 ? 0 : 1;
}
