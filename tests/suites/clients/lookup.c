/* Looks up each argument by getaddrinfo(), and prints one line of addresses for each. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **names)
{
    for (int at = 1; at < count; at++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
        int error = getaddrinfo(names[at], NULL, &hints, &found);
        if (error == EAI_NONAME)
            printf("not found");
        else if (error)
            printf("error: %s", gai_strerror(error));
        for (struct addrinfo *one = found; !error && one; one = one->ai_next) {
            char text[NI_MAXHOST];
            getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
            printf("%s ", text);
        }
        printf("\n");
    }
}
