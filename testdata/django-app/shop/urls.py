from django.contrib import admin
from django.http import JsonResponse
from django.urls import path


def total(request):
    prices = [int(price) for price in request.GET.get("prices", "0").split(",")]
    return JsonResponse({"total": sum(prices)})


urlpatterns = [path("", total), path("admin/", admin.site.urls)]
